"""Read ``sfdaq.yaml``; whatever is wrong is told with file, line and key."""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import ConfigError, shown_url
from .config import SfdaqConfig

LIMIT = 2**20
"""Largest file, bytes."""

MOST_VALUES, DEEPEST, LONGEST_NUMBER = 50_000, 50, 100
"""Values of a file, aliases written out; lists and mappings within each other; characters of a number."""

_PLACE = re.compile(r"\{(prefix|port(?:\+(\d{1,5}))?)\}")


def load_config(path: str | Path, *, port: int = 0, prefix: str = "") -> SfdaqConfig:
    """Read and check a configuration file; relative folders in it become absolute.

    Parameters
    ----------
    path : str or Path
    port, prefix : int, str
        What ``{port+N}`` and ``{prefix}`` stand for in a file with a ``sim`` block.

    Raises
    ------
    ConfigError
        One line per mistake: ``sfdaq.yaml:12: devices.eiger.url: expected ...``.
    """
    path = Path(os.path.abspath(os.path.expanduser(path)))
    root = _compose(path)
    lines: dict[tuple, int] = {}
    raw = _Reader(path, lines).plain(root, ()) if root is not None else {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}:1: expected a mapping of keys to values")
    if raw.get("sim") is not None:
        raw = _filled(raw, port, prefix)
    try:
        config = SfdaqConfig.model_validate(raw)
    except ValidationError as exc:
        raise ConfigError("\n".join(_sentence(path, lines, error) for error in exc.errors())) from exc
    directory = path.parent / config.directory
    return config.model_copy(update={"directory": directory})


def _compose(path: Path) -> yaml.Node | None:
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= LIMIT else ""
    except (OSError, ValueError) as exc:  # its name may be none, and its bytes no text
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    if size > LIMIT:
        raise ConfigError(f"{path}: larger than {LIMIT} bytes; expected a configuration file")
    try:
        return yaml.compose(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError(f"{path}: {_TOO_DEEP}") from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not YAML: {getattr(exc, 'problem', None) or exc}") from exc
    except (ValueError, OverflowError) as exc:  # an escape or a version beyond what there is
        raise ConfigError(f"{path}: not YAML: {exc}") from exc


class _Loader(yaml.SafeLoader):
    """Ends at brackets that are too deep: to read on, the scanner would take a second for a thousand."""

    def fetch_flow_collection_start(self, *args: Any) -> None:
        if self.flow_level > DEEPEST:
            raise RecursionError
        super().fetch_flow_collection_start(*args)


class _Reader:
    """Make values of nodes, within limits; note the line of every key."""

    def __init__(self, path: Path, lines: dict[tuple, int]):
        self._path, self._lines, self._n = path, lines, 0

    def plain(self, node: yaml.Node, key: tuple) -> Any:
        """Return the node's value; a key given twice is an error."""
        self._n += 1
        if self._n > MOST_VALUES:
            raise self._wrong(node, f"more than {MOST_VALUES} values, with aliases written out")
        if len(key) > DEEPEST:
            raise self._wrong(node, _TOO_DEEP)
        self._lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for name_node, value in node.value:
                name = self._scalar(name_node)
                if name in found:
                    raise self._wrong(name_node, f"{_dotted((*key, name))}: given twice")
                self._lines[(*key, name)] = name_node.start_mark.line + 1
                found[name] = self.plain(value, (*key, name))
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*key, i)) for i, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise self._wrong(node, "a key must be a word")
        if node.tag != "tag:yaml.org,2002:str" and len(node.value) > LONGEST_NUMBER:
            raise self._wrong(node, f"{node.value[:20]!r}...: too long for a number")
        try:
            value = yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError) as exc:
            raise self._wrong(node, getattr(exc, "problem", None) or str(exc)) from exc
        except (LookupError, AttributeError, TypeError, OverflowError) as exc:  # of a tag that does not fit
            kind = node.tag.rpartition(":")[2]
            raise self._wrong(node, f"{node.value!r:.40}: cannot be read as !!{kind}") from exc
        if isinstance(value, float) and not math.isfinite(value):
            raise self._wrong(node, f"{node.value}: expected a finite number")
        if isinstance(value, datetime.date):
            return str(value)
        if value is not None and not isinstance(value, str | int | float):
            raise self._wrong(node, f"{node.value!r:.40}: expected text, a number, true or false")
        return value

    def _wrong(self, node: yaml.Node, what: str) -> ConfigError:
        return ConfigError(f"{self._path}:{node.start_mark.line + 1}: {what}")


_TOO_DEEP = f"lists and mappings more than {DEEPEST} deep"


def _filled(value: Any, port: int, prefix: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(each, port, prefix) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, port, prefix) for each in value]
    if not isinstance(value, str):
        return value
    return _PLACE.sub(lambda m: prefix if m[1] == "prefix" else str(port + int(m[2] or 0)), value)


def _sentence(path: Path, lines: Mapping[tuple, int], error: Mapping[str, Any]) -> str:
    """Return ``file:line: key: what is wrong``; pydantic's names of union members are left out of the key."""
    key: tuple = ()
    for part in error["loc"]:
        if (*key, part) in lines or part == error["loc"][-1] and error["type"] == "missing":
            key = (*key, part)
    known = key
    while known not in lines and known:
        known = known[:-1]
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        said = "no such key"
    elif error["type"] == "missing":
        said = "missing"
    elif error["type"].startswith("union_tag"):
        said = said.replace("'cls'", "class")
    shown = "" if error["type"] in ("missing", "value_error") else f", not {_hidden(error['input'])!r:.80}"
    if error["type"] in ("extra_forbidden", "union_tag_invalid", "union_tag_not_found"):
        shown = ""
    return f"{path}:{lines.get(known, 1)}: {_dotted(key) or 'file'}: {said}{shown}"


def _hidden(value: Any) -> Any:
    """Return what a file gave as it may be shown; all of a text is looked at before it is cut."""
    if isinstance(value, Mapping):
        return {key: _hidden(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_hidden(each) for each in value]
    return shown_url(value[:_SHOWN]) if isinstance(value, str) else value


_SHOWN = 4000
"""Characters of a text that are looked at for a password, at the most."""


def _dotted(key: tuple) -> str:
    return ".".join(map(str, key))

"""Read ``sfdaq.yaml``; whatever is wrong is told with file, line and key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import ConfigError
from .config import SfdaqConfig

LIMIT = 2**20
"""Largest file, bytes."""

_PLACE = re.compile(r"\{(prefix|port(?:\+(\d+))?)\}")


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
    path = Path(os.path.abspath(Path(path).expanduser()))
    root = _compose(path)
    lines: dict[tuple, int] = {}
    raw = _plain(root, (), lines, path) if root is not None else {}
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
        if path.stat().st_size > LIMIT:
            raise ConfigError(f"{path}: larger than {LIMIT} bytes; expected a configuration file")
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not YAML: {getattr(exc, 'problem', None) or exc}") from exc


def _plain(node: yaml.Node, key: tuple, lines: dict[tuple, int], path: Path) -> Any:
    """Return the node's value, and note the line of every key; a key given twice is an error."""
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for name_node, value in node.value:
            name = _scalar(name_node, path)
            line = name_node.start_mark.line + 1
            if name in found:
                raise ConfigError(f"{path}:{line}: {_dotted((*key, name))}: given twice")
            lines[(*key, name)] = line
            found[name] = _plain(value, (*key, name), lines, path)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*key, i), lines, path) for i, item in enumerate(node.value)]
    return _scalar(node, path)


def _scalar(node: yaml.Node, path: Path) -> Any:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{path}:{line}: a key must be a word")
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as exc:
        raise ConfigError(f"{path}:{line}: {getattr(exc, 'problem', None) or exc}") from exc


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
    shown = "" if error["type"] in ("missing", "value_error") else f", not {error['input']!r:.80}"
    if error["type"] in ("extra_forbidden", "union_tag_invalid", "union_tag_not_found"):
        shown = ""
    return f"{path}:{lines.get(known, 1)}: {_dotted(key) or 'file'}: {said}{shown}"


def _dotted(key: tuple) -> str:
    return ".".join(map(str, key))

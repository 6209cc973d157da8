"""The broker's replies as typed values (wire reference sf-daq-broker, sections 2.1, 3, 4.2, 10).

HTTP 200 says nothing: `read_reply` tells success from refusal. Numbers are ints whatever the wire says.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from ..errors import WireError
from .broker import SF, Dialect
from .broker_parameters import HARDWARE_SETTINGS
from .json_text import load_json

Reply = Mapping[str, Any]
Value = TypeVar("Value")
Reader = Callable[[Reply, Dialect], Value]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the broker said when it did not say ok.

    Attributes
    ----------
    message : str
        Its words; may be empty.
    exception : str
        Class name of the server's exception; empty in the documented dialect.
    reply : dict
        The whole reply; empty for HTML.
    """

    message: str
    exception: str
    reply: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AllowedDetectors:
    """Detectors of the caller's beamline: names, descriptions and live-view addresses, in one order."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    visualisation_addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LimpingDetector:
    """Modules that write into the buffer, and modules that do not."""

    running_modules: tuple[int, ...]
    missing_modules: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunningDetectors:
    """Detectors that write into the buffer; up to 30 s late.

    Attributes
    ----------
    running : tuple of str
    limping : dict of str to LimpingDetector, or None
        Some modules do not write. None where the dialect cannot tell (documented).
    missing : tuple of str, or None
    """

    running: tuple[str, ...]
    limping: dict[str, LimpingDetector] | None
    missing: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """An accepted request for data. The files do not exist yet: they come 0 to 60 s later, or never.

    Attributes
    ----------
    run_number, acquisition_number, unique_acquisition_number : int
        Number of the run, of the acquisition in it, and of the acquisition in the pgroup.
    files : tuple of str
        Paths on the server: PVDATA, BSDATA, CAMERAS, then detectors as listed.
    recovered : bool
        True if the reply was lost and this was read from the run's ``meta/`` instead.
    """

    run_number: int
    acquisition_number: int
    unique_acquisition_number: int
    files: tuple[str, ...]
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class Pings:
    """Modules that answer on the network, and modules that do not."""

    responding: tuple[int, ...]
    unreachable: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JfStats:
    """Temperatures, and what the power control box says where there is one."""

    temperatures: dict[str, list[float]]
    parameters: dict[str, float] | None
    writing: bool | None


@dataclass(frozen=True, slots=True)
class CopiedFiles:
    """User files copied into a run.

    Attributes
    ----------
    copied : dict of str to str
        Source to destination; in the documented dialect matched by base name.
    failed : dict of str to str
        Source to reason; the reason is empty in the documented dialect.
    """

    copied: dict[str, str]
    failed: dict[str, str]


def _html_text(page: str) -> str:
    """Return title and message of an error page, in one line."""
    parts = [re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S | re.I) for tag in ("title", "pre")]
    texts = [html.unescape(part[1]).strip() for part in parts if part]
    return ": ".join(dict.fromkeys(texts)) or page[:200].strip()


def read_reply(
    code: int, body: bytes, dialect: Dialect, expected: str | None = None
) -> dict[str, Any] | Refusal:
    """Return a reply of HTTP status `code` if it is a success, else what the broker said.

    In the documented dialect a reply without ``status`` must have the key `expected`. WireError if the code
    is 200, and it is neither: not JSON, not an object.
    """
    try:
        reply = load_json(body)
    except WireError as exc:
        text = _html_text(body.decode("utf-8", "replace"))
        if code != 200:
            return Refusal(text, "", {})
        raise WireError(f"the broker's reply is not JSON: {text[:200]!r}") from exc
    if not isinstance(reply, dict):
        raise WireError(f"the broker's reply is not an object: {str(reply)[:200]}")
    if code == 200 and reply.get("status") == "ok":
        return reply
    bare = dialect == "documented" and "status" not in reply and "state" not in reply
    if code == 200 and bare and expected in reply:
        return reply
    if code == 200 and "status" not in reply and "state" not in reply:
        raise WireError(f"the broker's reply has no status and no {expected!r}: {str(reply)[:200]}")
    message = reply.get("message", reply.get("status", ""))
    exception = reply.get("exception", "")
    return Refusal(str(message), exception if isinstance(exception, str) else "", reply)


def field(reply: Mapping[str, Any], key: str, kind: type) -> Any:
    """Return ``reply[key]``; WireError if it is absent or of another type."""
    value = reply.get(key)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise WireError(f"the broker's reply has {key}={value!r}: expected {kind.__name__}")
    return value


def strings(reply: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return ``reply[key]`` as strings; WireError if it is not a list of them."""
    values = field(reply, key, list)
    if not all(isinstance(value, str) for value in values):
        raise WireError(f"the broker's reply has {key}={values!r}: expected strings")
    return tuple(values)


def number(value: Any, key: str) -> int:
    """Return a number that comes as int in one reply and as decimal string in the next."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise WireError(f"the broker's reply has {key}={value!r}: expected a number")
    try:
        return int(value)
    except ValueError as exc:
        raise WireError(f"the broker's reply has {key}={value!r}: expected a number") from exc


def integers(reply: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Return ``reply[key]`` as integers."""
    return tuple(number(value, key) for value in field(reply, key, list))


def mapping(reply: Reply, key: str) -> dict[str, Any]:
    """Return ``reply[key]`` as a dict; WireError if it is none."""
    return dict(field(reply, key, dict))


def changes(reply: Reply, key: str) -> dict[str, tuple[Any, Any]]:
    """Read ``{name: [old, new]}``."""
    pairs = field(reply, key, dict)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs.values()):
        raise WireError(f"the broker's reply has {key}={pairs!r}: expected pairs of old and new")
    return {name: (old, new) for name, (old, new) in pairs.items()}


def under(read: Callable[[Reply, str], Value], current: str, documented: str = "") -> Reader[Value]:
    """Return what reads one value of a reply, under the key that it has in a dialect."""

    @functools.wraps(read)
    def reader(reply: Reply, dialect: Dialect) -> Value:
        return read(reply, documented if documented and dialect == "documented" else current)

    return reader


def _number(reply: Reply, key: str) -> int:
    return number(reply.get(key), key)


def _text(reply: Reply, key: str) -> str:
    return str(reply.get(key, ""))


def _names(reply: Reply, key: str) -> list[str]:
    return list(strings(reply, key))


def _modules(reply: Reply, key: str) -> dict[str, list[int]]:
    states = field(reply, key, dict)
    return {state: list(integers(states, state)) for state in states}


message = under(_text, "message")
run_number = under(_number, "run_number", "message")
pv_list = under(_names, "pv_list")
stored_pv_list = under(_names, "pv_list", "message")
detector_status = under(_modules, "detector_status")
temperatures = under(mapping, "temperatures")
control_box = under(mapping, "parameters")
dap_settings = under(mapping, "parameters", "message")
changed_dap_settings = under(changes, "changed_parameters", "message")
"""Replies that are one value, by what they tell."""


def nothing(reply: Reply, dialect: Dialect) -> None:
    """Read a reply that says no more than ok."""


def allowed_detectors(reply: Reply, dialect: Dialect) -> AllowedDetectors:
    """Read the reply of get_allowed_detectors."""
    descriptions = "names" if dialect == "documented" else "descriptions"
    keys = ("detectors", descriptions, "visualisation_address")
    return AllowedDetectors(*(strings(reply, key) for key in keys))


_FILE = re.compile(rf"{SF}/[^\0]*[^/\0]\.[^./\0]+\.h5")


def retrieval(reply: Reply, dialect: Dialect) -> Retrieval:
    """Read the reply of retrieve_from_buffers."""
    run, acquisition, unique = (
        number(reply.get(key), key)
        for key in ("run_number", "acquisition_number", "unique_acquisition_number")
    )
    files = strings(reply, "files")
    for file in files:
        if not _FILE.fullmatch(file) or ".." in file.split("/"):
            raise WireError(f"the broker's reply has files={files!r}: expected /sf/.../acqNNNN.SOURCE.h5")
    return Retrieval(run, acquisition, unique, files)


_LIMPING = ("running_modules", "missing_modules")


def running_detectors(reply: Reply, dialect: Dialect) -> RunningDetectors:
    """Read the reply of get_running_detectors."""
    if dialect == "documented":
        return RunningDetectors(strings(reply, "detectors"), None, None)
    groups = field(reply, "limping_detectors", dict)
    limping = {
        name: LimpingDetector(*(integers(field(groups, name, dict), key) for key in _LIMPING))
        for name in groups
    }
    return RunningDetectors(strings(reply, "running_detectors"), limping, strings(reply, "missing_detectors"))


def detector_settings(reply: Reply, dialect: Dialect) -> dict[str, Any]:
    """Read the reply of get_detector_settings."""
    settings = reply if dialect == "documented" else field(reply, "parameters", dict)
    return {name: settings[name] for name in HARDWARE_SETTINGS if name in settings}


def changed_settings(reply: Reply, dialect: Dialect) -> dict[str, tuple[Any, Any]] | None:
    """Read the reply of set_detector_settings; the documented dialect does not tell what changed."""
    return None if dialect == "documented" else changes(reply, "changed_parameters")


def pings(reply: Reply, dialect: Dialect) -> Pings:
    """Read the reply of get_detector_pings."""
    found = field(reply, "pings", dict)
    return Pings(integers(found, "responding"), integers(found, "unreachable"))


def jfstats(reply: Reply, dialect: Dialect) -> JfStats:
    """Read the reply of get_jfstats."""
    writing = reply.get("writing")
    return JfStats(
        mapping(reply, "temperatures"),
        mapping(reply, "parameters") if "parameters" in reply else None,
        None if writing is None else bool(writing),
    )


def copied_files(reply: Reply, dialect: Dialect) -> CopiedFiles:
    """Read the reply of copy_user_files; of the documented dialect, `copied` is by base name."""
    if dialect == "documented":
        paths = strings(reply, "destination_file_path")
        copied = {PurePosixPath(path).name: path for path in paths}
        return CopiedFiles(copied, dict.fromkeys(strings(reply, "error_files"), ""))
    return CopiedFiles(mapping(reply, "destination_files"), mapping(reply, "error_files"))

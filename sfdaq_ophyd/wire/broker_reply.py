"""The broker's replies as typed values (wire reference sf-daq-broker, sections 2.1, 3, 4.2, 10).

HTTP 200 says nothing: `read_reply` tells success from refusal. Numbers are ints whatever the wire says.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import WireError
from .broker import Dialect
from .json_text import load_json


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


def html_text(page: str) -> str:
    """Return title and message of an error page, in one line."""
    parts = [re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S | re.I) for tag in ("title", "pre")]
    texts = [html.unescape(part[1]).strip() for part in parts if part]
    return ": ".join(dict.fromkeys(texts)) or page[:200].strip()


def read_reply(
    code: int, body: bytes, dialect: Dialect, expected: str | None = None
) -> dict[str, Any] | Refusal:
    """Read one reply.

    Parameters
    ----------
    code : int
        HTTP status.
    expected : str, optional
        Key that must be there in a reply without ``status`` (documented dialect).

    Returns
    -------
    dict
        The reply, if it is a success.
    Refusal
        Otherwise.

    Raises
    ------
    WireError
        Status 200, and neither: not JSON, not an object.
    """
    try:
        reply = load_json(body)
    except WireError as exc:
        text = html_text(body.decode("utf-8", "replace"))
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


def retrieval(reply: Mapping[str, Any]) -> Retrieval:
    """Read the reply of retrieve_from_buffers."""
    run, acquisition, unique = (
        number(reply.get(key), key)
        for key in ("run_number", "acquisition_number", "unique_acquisition_number")
    )
    return Retrieval(run, acquisition, unique, files=strings(reply, "files"))


_LIMPING = ("running_modules", "missing_modules")


def running_detectors(reply: Mapping[str, Any], dialect: Dialect) -> RunningDetectors:
    """Read the reply of get_running_detectors."""
    if dialect == "documented":
        return RunningDetectors(strings(reply, "detectors"), None, None)
    groups = field(reply, "limping_detectors", dict)
    limping = {
        name: LimpingDetector(*(integers(field(groups, name, dict), key) for key in _LIMPING))
        for name in groups
    }
    return RunningDetectors(strings(reply, "running_detectors"), limping, strings(reply, "missing_detectors"))


def changes(reply: Mapping[str, Any], key: str) -> dict[str, tuple[Any, Any]]:
    """Read ``{name: [old, new]}``."""
    pairs = field(reply, key, dict)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs.values()):
        raise WireError(f"the broker's reply has {key}={pairs!r}: expected pairs of old and new")
    return {name: (old, new) for name, (old, new) in pairs.items()}

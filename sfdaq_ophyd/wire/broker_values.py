"""Checks shared by all requests to the broker: plain JSON values, names and whole numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import RequestError
from .broker import MAX_BODY
from .detector_name import DetectorName

CAMERA_SUFFIX = ":FPICTURE"
"""How the names of camera images end."""

_PGROUP = re.compile(r"p\d{5}", re.ASCII)
_DETECTOR = re.compile(r"JF\d{2}T\d{2}V\d{2}", re.ASCII)
_DEPTH = 32


def plain(value: Any, field: str, _depth: int = 0) -> Any:
    """Return `value` as plain JSON types: numpy scalars and arrays, tuples and sets become numbers and lists.

    Raises
    ------
    RequestError
        NaN or infinity (no JSON), a key that is not a string, or a type JSON does not know; `field`
        names the place.

    Examples
    --------
    >>> plain({"offset": (0, 1.5)}, "scan_info")
    {'offset': [0, 1.5]}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RequestError(field, value, "a finite number: NaN and infinity are not JSON")
        return float(value)
    if _depth >= _DEPTH:
        raise RequestError(field, value, f"at most {_DEPTH} levels of nesting")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RequestError(field, key, "keys that are strings")
        return {key: plain(item, f"{field}.{key}", _depth + 1) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist(), field, _depth + 1)
    if isinstance(value, list | tuple):
        return [plain(item, f"{field}[{i}]", _depth + 1) for i, item in enumerate(value)]
    raise RequestError(field, value, "plain numbers, strings, lists and dicts")


def encode_body(fields: Mapping[str, Any]) -> bytes:
    """Return the body of a request; RequestError naming the largest field if the server would not read it."""
    body = json.dumps({key: plain(value, key) for key, value in fields.items()}, allow_nan=False).encode()
    if len(body) > MAX_BODY:
        size, field = max((len(json.dumps(plain(value, key))), key) for key, value in fields.items())
        raise RequestError(
            field, f"{size} bytes of {len(body)}", f"a request of at most {MAX_BODY} bytes: split it"
        )
    return body


def check_int(value: Any, field: str, low: int = 0, high: int | None = None) -> int:
    """Return `value` as a plain int from `low` to `high`; strings, floats and bools are refused."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise RequestError(field, value, "an integer")
    value = value.__index__()
    if value < low or (high is not None and value > high):
        raise RequestError(
            field, value, f"an integer of at least {low}" if high is None else f"{low} to {high}"
        )
    return value


def check_pgroup(value: Any) -> str:
    """Return `value` if it looks like a pgroup, e.g. ``p12345``."""
    if not isinstance(value, str) or not _PGROUP.fullmatch(value):
        raise RequestError("pgroup", value, "'p' and five digits, like 'p12345'")
    return value


def check_detector(value: Any, field: str = "detector_name") -> str:
    """Return `value` if it is a detector name as the broker writes them, e.g. ``JF01T03V01``."""
    if not isinstance(value, str) or not _DETECTOR.fullmatch(value):
        raise RequestError(field, value, "a detector name like 'JF01T03V01'")
    return str(DetectorName.parse(value))


def check_modules(value: Any, detector_name: str, field: str = "modules") -> list[int]:
    """Return module numbers of `detector_name`, each once, order kept."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise RequestError(field, value, "a list of module numbers")
    last = DetectorName.parse(detector_name).n_modules - 1
    return list(dict.fromkeys(check_int(item, field, 0, last) for item in value))


def check_names(value: Any, field: str, *, cameras: bool = False) -> list[str]:
    """Return names of channels, PVs or cameras: each once, order kept.

    Parameters
    ----------
    cameras : bool
        True: each must end in ``:FPICTURE``; False: none may.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise RequestError(field, value, "a list of names: the server splits a string into its letters")
    names = list(value)
    for name in names:
        if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
            raise RequestError(field, name, "non-empty names without blanks around them")
        if name.endswith(CAMERA_SUFFIX) is not cameras:
            where = f"camera images, ending in {CAMERA_SUFFIX}" if cameras else "cameras listed as cameras"
            raise RequestError(field, name, where)
    return list(dict.fromkeys(names))

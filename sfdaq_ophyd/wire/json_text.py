"""JSON from outside: one error, whatever is wrong with it, and no nesting that breaks what comes after."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ..errors import WireError

MAX_DEPTH = 100
"""Deepest nesting that is taken; replies of the services nest below ten."""


def load_json(data: bytes | str) -> object:
    """Parse a JSON text.

    Parameters
    ----------
    data : bytes or str
        Bytes in UTF-8, 16 or 32. The caller bounds the size.

    Raises
    ------
    WireError
        Not JSON, or nested deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        text = data if isinstance(data, str) else bytes(data[:1000]).decode("utf-8", "replace")
        raise WireError(f"not JSON: {text[:200]!r}") from exc
    if isinstance(data, str):
        n_brackets = data.count("[") + data.count("{")
    else:
        n_brackets = data.count(b"[") + data.count(b"{")
    if n_brackets > MAX_DEPTH and _is_deep(value):
        raise WireError(f"JSON nested deeper than {MAX_DEPTH}: {data[:80]!r}")
    return value


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def plain_array(value: object, refusal: str) -> object:
    """Return an array as lists and a number of numpy as one of Python, for the encoders of JSON.

    Raises
    ------
    TypeError
        `value` is neither; its text is `refusal`.
    """
    to_list = getattr(value, "tolist", None)
    if to_list is None:
        raise TypeError(refusal)
    return to_list()


MAX_HEADER_BYTES = 1 << 20
"""Longest header that is looked at; region lists and spots of sf-daq headers are far below."""


def load_header(data: bytes | memoryview, what: str) -> dict[str, Any]:
    """Parse one JSON object.

    Raises
    ------
    WireError
        Too long, not UTF-8, not JSON (also: numbers such as ``inf``), or not an object.
    """
    if len(data) > MAX_HEADER_BYTES:
        raise WireError(f"{what}: {len(data)} bytes, expected at most {MAX_HEADER_BYTES}")
    try:
        fields = json.loads(bytes(data).decode())
    except (ValueError, RecursionError) as exc:
        raise WireError(f"{what}: not JSON ({exc}): {bytes(data[:80])!r}") from exc
    if not isinstance(fields, dict):
        raise WireError(f"{what}: a JSON {type(fields).__name__}, expected an object")
    return fields


class HeaderReader:
    """Take typed fields out of a parsed header.

    Parameters
    ----------
    fields : dict
        The parsed header; fields that were read are taken out, the rest stays.
    what : str
        Name of the header for messages.
    """

    def __init__(self, fields: dict[str, Any], what: str):
        self.fields, self.what = fields, what

    def wrong(self, field: str, value: object, expected: str) -> WireError:
        """Build the error for one field."""
        return WireError(f"{self.what}: {field}={value!r:.200}, expected {expected}")

    def integer(self, field: str, default: int | None = None, *, bits: int = 64) -> int:
        """Return an unsigned integer of so many bits; true and false count as 1 and 0."""
        value = self.fields.pop(field, default)
        if type(value) is int and 0 <= value < 1 << bits:
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or not 0 <= value < 1 << bits:
            raise self.wrong(field, value, f"an unsigned {bits}-bit integer")
        return int(value)

    def number(self, field: str, default: float = 0.0) -> float:
        """Return a number."""
        value = self.fields.pop(field, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(field, value, "a number")
        try:
            return float(value)
        except OverflowError:
            raise self.wrong(field, value, "a number that a float can hold") from None

    def text(self, field: str, default: str = "") -> str:
        """Return a string."""
        value = self.fields.pop(field, default)
        if not isinstance(value, str):
            raise self.wrong(field, value, "a string")
        return value

    def integers(self, field: str, n: int, default: list[int] | None = None) -> tuple[int, ...]:
        """Return exactly `n` unsigned 32-bit integers."""
        value = self.fields.pop(field, default)
        good = isinstance(value, list) and len(value) == n
        if not good or not all(type(v) is int and 0 <= v < 1 << 32 for v in value):
            raise self.wrong(field, value, f"a list of {n} unsigned integers")
        return tuple(value)

"""Whether a value is fit to be sent."""

from __future__ import annotations

from ..errors import RequestError


def whole_number(field: str, value: object, least: int) -> int:
    """Return `value` as an int; raise `RequestError` unless it is a whole number, `least` or more."""
    try:
        if not isinstance(value, bool | str) and int(value) == value and value >= least:
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise RequestError(field, value, f"a whole number, {least} or more")

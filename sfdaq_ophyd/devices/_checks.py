"""Whether a value is fit to be sent, and whose failure it was."""

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


def naming(exc: Exception, name: str) -> Exception:
    """Return `exc`; if it does not say whose it is, its text does now, or, where that cannot be, a note."""
    if name not in str(exc):
        if isinstance(exc, OSError) and exc.strerror:
            exc.strerror = f"{name}: {exc.strerror}"
        elif all(isinstance(arg, str | int | float) for arg in exc.args):
            exc.args = (f"{name}: {exc}",)
        if name not in str(exc):
            exc.add_note(f"of {name}")
    return exc

"""Times as SIMPLON writes them, to integer nanoseconds and back.

float64 seconds resolve only 0.24 us today, so the fraction is kept apart until the last step.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from ..errors import WireError

_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2})(?:[.,](\d{1,12}))?\s*(Z|z|[+-]\d{2}:?\d{2})?\Z", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time_ns(text: str) -> int:
    """Return ns since the epoch; WireError if `text` is not a full date and time.

    Both forms in use are taken: ``2024-05-14T08:59:56.123456789Z`` and ``2024-05-14T10:59:56.123+02:00``.
    A time without an offset is UTC.

    Examples
    --------
    >>> parse_time_ns("2024-05-14T10:59:56.123+02:00")
    1715677196123000000
    """
    match = _TIME.match(text.strip())
    if match is None:
        raise WireError(f"not a time: {text[:80]!r}, expected such as 2024-05-14T08:59:56.123456789Z")
    whole, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(whole.replace(" ", "T")).replace(tzinfo=_zone(offset))
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError) as exc:
        raise WireError(f"not a time: {text[:80]!r} ({exc})") from exc
    return seconds * 10**9 + int((fraction or "0").ljust(9, "0")[:9])


def format_time_ns(time_ns: int, *, offset_minutes: int | None = None) -> str:
    """Write a time: ns and ``Z``, or, with an offset, ms and ``+hh:mm`` of local time.

    Examples
    --------
    >>> format_time_ns(1715677196123456789)
    '2024-05-14T08:59:56.123456789Z'
    >>> format_time_ns(1715677196123000000, offset_minutes=120)
    '2024-05-14T10:59:56.123+02:00'
    """
    seconds, fraction = divmod(time_ns, 10**9)
    if offset_minutes is None:
        return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S") + f".{fraction:09d}Z"
    zone = timezone(timedelta(minutes=offset_minutes))
    moment = (_EPOCH + timedelta(seconds=seconds, milliseconds=fraction // 10**6)).astimezone(zone)
    return moment.isoformat(timespec="milliseconds")


def _zone(offset: str | None) -> timezone:
    if offset is None or offset in "Zz":
        return UTC
    sign = -1 if offset[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[-2:])))

"""Pulse ids: ranges with both ends included, and their alignment to slower detectors.

The machine counts one pulse every 10 ms (100 Hz), whatever the beam does. A detector at 100/r Hz, with
`rate_multiplicator` r, takes the pulses whose id is a multiple of r.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

from ..errors import RequestError

PULSE_RATE = 100
"""Machine pulses per second, Hz."""

RATE_MULTIPLICATORS = (1, 2, 4, 8, 10, 20, 40, 50, 100)
"""Values the broker accepts."""

MAX_PULSE_DISTANCE = 60001
"""Largest ``last - first`` the broker accepts in one request."""


def check_rate_multiplicator(value: object) -> int:
    """Return `value` as one of the broker's rate multiplicators; RequestError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real) or value not in RATE_MULTIPLICATORS:
        raise RequestError("rate_multiplicator", value, f"one of {RATE_MULTIPLICATORS}")
    return int(cast(float, value))


def _integer(value: Any, field: str, expected: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise RequestError(field, value, expected) from None


def check_whole(value: object, field: str) -> int:
    """Return a whole number of at least 1, which may come as a float; RequestError otherwise."""
    try:
        whole = int(cast(float, value)) if isinstance(value, Real) and not isinstance(value, bool) else 0
    except (ValueError, OverflowError):  # not a number, infinity
        whole = 0
    if whole < 1 or whole != value:
        raise RequestError(field, value, "a whole number of at least 1")
    return whole


@dataclass(frozen=True, slots=True)
class PulseRange:
    """Pulses from `first` to `last`, both included.

    Parameters
    ----------
    first, last : int
        Pulse ids, ``0 <= first <= last < 2**63``.

    Examples
    --------
    >>> len(PulseRange(1000, 1009))
    10
    >>> PulseRange(1001, 1009).aligned(2)
    PulseRange(first=1002, last=1008)
    >>> PulseRange.next_frames(now=1003, n_frames=3, rate_multiplicator=4)
    PulseRange(first=1004, last=1012)
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            value = _integer(getattr(self, name), f"PulseRange.{name}", "an integer pulse id")
            if not 0 <= value < 2**63:
                raise RequestError(f"PulseRange.{name}", value, "a pulse id from 0 to 2**63 - 1")
            object.__setattr__(self, name, value)
        if self.last < self.first:
            raise RequestError("PulseRange.last", self.last, f"not less than first, {self.first}")

    @classmethod
    def next_frames(cls, now: int, n_frames: int, rate_multiplicator: int = 1) -> PulseRange:
        """Range of the next exactly `n_frames` frames after pulse `now` of a detector at 100/r Hz."""
        n, r = check_whole(n_frames, "n_frames"), check_rate_multiplicator(rate_multiplicator)
        try:
            first = (int(now) // r + 1) * r
        except (TypeError, ValueError, OverflowError):
            raise RequestError("now", now, "a pulse id") from None
        return cls(first, first + (n - 1) * r)

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, pulse_id: object) -> bool:
        return isinstance(pulse_id, int) and self.first <= pulse_id <= self.last

    def aligned(self, rate_multiplicator: int) -> PulseRange:
        """Shrink to the first and last multiple of r inside.

        Raises
        ------
        RequestError
            No multiple lies inside: the broker would read from pulse 0.
        """
        r = check_rate_multiplicator(rate_multiplicator)
        first, last = -(-self.first // r) * r, self.last // r * r
        if last < first:
            raise RequestError("pulse range", (self.first, self.last), f"at least one multiple of {r} inside")
        return PulseRange(first, last)

    def n_frames(self, rate_multiplicator: int = 1) -> int:
        """Count the frames of a detector at 100/r Hz inside; 0 if there is none."""
        r = check_rate_multiplicator(rate_multiplicator)
        return self.last // r - (self.first - 1) // r

    def split(
        self, max_distance: int = MAX_PULSE_DISTANCE, rate_multiplicator: int = 1
    ) -> Iterator[PulseRange]:
        """Cut into consecutive ranges that one request can carry, each with a frame at 100/r Hz inside.

        Cuts lie before multiples of r; pulses before the first and after the last frame of the whole
        range stay with the first and the last part.
        """
        r = check_rate_multiplicator(rate_multiplicator)
        expected = f"at least {2 * r - 2}: a frame in each part"
        if _integer(max_distance, "max_distance", expected) < 2 * r - 2:
            raise RequestError("max_distance", max_distance, expected)
        inner, first = self.aligned(r), self.first
        while self.last - first > max_distance:
            last = min((first + max_distance + 1) // r * r - 1, inner.last - 1)
            yield PulseRange(first, last)
            first = last + 1
        yield PulseRange(first, self.last)

"""The newest frame of a detector, as the page shows it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .geometry import Geometry

KEPT = 40
"""Results kept per frame; one more viewer with other wishes costs one more of them, never one more frame."""


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One frame, kept whole so that any part and any pixel of it can be asked for.

    Attributes
    ----------
    number : int
        Counts the frames this page took from the detector.
    image : ndarray, shape (y, x)
        Counts, raw words without gain bits, or calibrated values; `unit` says which.
    bad, saturated : ndarray of bool, shape (y, x)
        Pixels without a measurement; pixels that saw more than they can count.
    unit : str
    event_id : str
    pulse_id : int or None
    timestamp : float or None
        s since the epoch.
    is_good : bool
    geometry : Geometry or None
    arrived : float or None
        ``time.monotonic()`` when it came; None if it was there before the page looked.
    results : dict
        Pictures and numbers made of it so far; see `once`.
    """

    number: int
    image: np.ndarray
    bad: np.ndarray
    saturated: np.ndarray
    unit: str
    event_id: str
    pulse_id: int | None = None
    timestamp: float | None = None
    is_good: bool = True
    geometry: Geometry | None = None
    arrived: float | None = None
    results: dict = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def once(self, wish: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` gives: made once for all viewers with the same wish."""
        with self._lock:
            if wish not in self.results:
                made = make()
                while len(self.results) >= KEPT:
                    self.results.pop(next(iter(self.results)))
                self.results[wish] = made
            return self.results[wish]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the page says of the frame; ready for JSON."""
        values = self.image[~(self.bad | self.saturated)]
        beyond = self.image[self.saturated & ~self.bad]
        exact = "f8" if self.image.dtype.kind == "f" else "i8"
        total = values.sum(dtype=exact) + beyond.sum(dtype=exact)
        return {
            "number": self.number,
            "event_id": self.event_id,
            "pulse_id": self.pulse_id,
            "timestamp": self.timestamp,
            "is_good": self.is_good,
            "shape": list(self.image.shape),
            "unit": self.unit,
            "n_bad": int(np.count_nonzero(self.bad)),
            "n_saturated": int(np.count_nonzero(self.saturated)),
            "max": plain(values.max()) if values.size else None,
            "total": plain(total) if values.size or beyond.size else None,
            "mean": float(f"{values.mean(dtype='f8'):.6g}") if values.size else None,
            "geometry": asdict(self.geometry) if self.geometry else None,
            "rings": self.geometry.rings(self.image.shape) if self.geometry else [],
        }

    def pixel(self, x: int, y: int) -> dict[str, Any] | None:
        """Return value and condition of one pixel; None outside."""
        height, width = self.image.shape
        if not (0 <= x < width and 0 <= y < height):
            return None
        condition = "bad" if self.bad[y, x] else "saturated" if self.saturated[y, x] else "good"
        value = None if condition == "bad" else plain(self.image[y, x])
        return {
            "x": x,
            "y": y,
            "value": value,
            "condition": condition,
            "unit": self.unit,
            "event_id": self.event_id,
        }


def plain(value: np.generic) -> int | float:
    """Return a value of a frame as JSON has it, floats with six digits."""
    return float(f"{value:.6g}") if value.dtype.kind == "f" else int(value)

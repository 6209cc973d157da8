"""The newest frame of a detector, as the page shows it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

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
    timestamp : float or None
        s since the epoch.
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


RESOLUTIONS = (50, 30, 20, 15, 10, 8, 6, 5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.4, 1.2, 1.1, 1, 0.9, 0.8, 0.7)
"""Candidates for rings, angstrom."""

MAX_RINGS = 6
MIN_GAP = 0.08
"""Least distance of two rings, as a share of the largest radius that is seen."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Beam centre and scale of a flat detector at right angles to the beam.

    Parameters
    ----------
    centre : (x, y)
        Pixels.
    distance, pixel_size : float
        m.
    wavelength : float
        Angstrom.
    """

    centre: tuple[float, float]
    distance: float
    pixel_size: float
    wavelength: float

    @property
    def is_known(self) -> bool:
        """Whether the numbers were ever set: detectors start with zeros."""
        numbers = (*self.centre, self.distance, self.pixel_size, self.wavelength)
        return all(map(math.isfinite, numbers)) and min(numbers[2:]) > 0 and any(self.centre)

    def radius(self, resolution: float) -> float | None:
        """Return the radius of a ring in pixels; None where 2 theta is 90 degrees or more."""
        sine = self.wavelength / (2 * resolution)
        if sine >= math.sqrt(0.5):
            return None
        return self.distance * math.tan(2 * math.asin(sine)) / self.pixel_size

    def rings(self, shape: tuple[int, int]) -> list[dict[str, float]]:
        """Return up to `MAX_RINGS` round resolutions that lie on an image of `shape` (y, x)."""
        x, y = self.centre
        corners = [(cx, cy) for cx in (0, shape[1]) for cy in (0, shape[0])]
        largest = max(math.hypot(cx - x, cy - y) for cx, cy in corners)
        found: list[dict[str, float]] = []
        for resolution in RESOLUTIONS:
            radius = self.radius(resolution)
            last = found[-1]["radius"] if found else 0.0
            if radius is not None and last + MIN_GAP * largest < radius <= largest:
                found.append({"resolution": resolution, "radius": round(radius, 2)})
        step = max(1, -(-len(found) // MAX_RINGS))
        return found[::-1][::step][::-1]


N_BINS = 96
MOST_COUNTED = 2**17
"""Pixels a histogram looks at: of more, every n-th row and column."""

LONGEST_PROFILE = 1024
"""Points of a line profile."""


def histogram(frame: LiveFrame, part: tuple[slice, slice], scale: str) -> dict[str, Any]:
    """Return how many of the good pixels of a part have which value.

    Parameters
    ----------
    part : (slice, slice)
        Rows and columns.
    scale : {"log", "linear"}
        Of the bins; pixels of 0 or less are in none of the log ones.

    Returns
    -------
    dict
        ``low`` and ``high`` (the outer edges), ``counts`` (of each bin), ``every`` (row and column counted).
        Without any pixel to count, low and high are None.
    """
    image = frame.image[part]
    every = max(1, math.ceil(math.sqrt(image.size / MOST_COUNTED)))
    seen = (slice(None, None, every),) * 2
    values = image[seen][~(frame.bad[part][seen] | frame.saturated[part][seen])].astype("f4")
    if scale == "log":
        values = np.log10(values[values > 0])
    if not values.size:
        return {"low": None, "high": None, "counts": [], "every": every}
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, N_BINS, (low, high if high > low else low + 1e-3))
    ends = (10**low, 10**high) if scale == "log" else (low, high)
    return {"low": ends[0], "high": ends[1], "counts": counts.tolist(), "every": every}


def region(frame: LiveFrame, part: tuple[slice, slice]) -> dict[str, Any]:
    """Return sum and mean of the measured pixels of a part, how many these are, and how many are not.

    Without a measured pixel, sum and mean are None. Saturated pixels count with what they say, and
    `n_saturated` tells how many they are.
    """
    bad = frame.bad[part]
    values = frame.image[part][~bad]
    total = plain(values.sum(dtype="f8" if values.dtype.kind == "f" else "i8")) if values.size else None
    return {
        "sum": total,
        "mean": float(f"{values.mean(dtype='f8'):.6g}") if values.size else None,
        "n": int(values.size),
        "n_bad": int(np.count_nonzero(bad)),
        "n_saturated": int(np.count_nonzero(frame.saturated[part])),
    }


def profile(frame: LiveFrame, line: tuple[int, int, int, int]) -> list[int | float | None]:
    """Return the pixels nearest to a line from (x0, y0) to (x1, y1), one per pixel of its longer side.

    None for a pixel without a measurement, and for what lies outside of the frame.
    """
    height, width = frame.image.shape
    x0, y0, x1, y1 = line
    n = min(LONGEST_PROFILE, max(abs(x1 - x0), abs(y1 - y0)) + 1)
    x, y = np.linspace(x0, x1, n).round().astype(int), np.linspace(y0, y1, n).round().astype(int)
    inside = (0 <= x) & (x < width) & (0 <= y) & (y < height)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    measured = inside & ~frame.bad[y, x]
    return [plain(value) if ok else None for value, ok in zip(frame.image[y, x], measured, strict=True)]

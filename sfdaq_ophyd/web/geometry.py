"""Where the beam meets a detector, and the resolution rings that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

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

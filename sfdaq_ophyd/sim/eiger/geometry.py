"""Sizes and gaps of the detector models: wire reference eiger, section 9; rates are our choice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...errors import RequestError

MODULES = {"500K": (1, 1), "1M": (2, 1), "4M": (4, 2), "9M": (6, 3), "16M": (8, 4)}
"""Modules of each model, (down, across)."""

_MODULE = {"1.8.0": (512, 1028), "1.6.0": (514, 1030)}
_GAP = {"1.8.0": (38, 12), "1.6.0": (37, 10)}
_RATES = {"500K": 2000.0, "1M": 2000.0, "4M": 560.0, "9M": 230.0, "16M": 231.0}
_BAD_PIXELS = 2250 / (32 * 512 * 1028)
"""Share of bad pixels on a real EIGER2 16M."""


@dataclass(frozen=True)
class Geometry:
    """One detector: its name, size, gaps and fastest 16-bit frame."""

    model: str
    shape: tuple[int, int]
    fastest_16_bit: float
    module: tuple[int, int]
    gap: tuple[int, int]

    def with_roi(self, roi_mode: str) -> Geometry:
        """Return the size read out in a region of interest: a 16M's ``4M-L``, ``4M-R`` or ``4M``."""
        if roi_mode in ("", "disabled"):
            return self
        shape = _span(self.module, self.gap, *MODULES["4M"])
        return replace(self, shape=shape, fastest_16_bit=1 / _RATES["4M"])

    @property
    def has_roi(self) -> bool:
        """Whether the 4M regions exist."""
        return self.model == "16M"


def make_geometry(model: str, version: str, shape: tuple[int, int] | None = None) -> Geometry:
    """Return the geometry of a model, or one of any `shape` (y, x) of at least 4 x 8 pixels."""
    if model not in tuple(MODULES):
        raise RequestError("model", model, f"one of {', '.join(MODULES)}")
    module, gap = _MODULE[version], _GAP[version]
    if shape is None:
        return Geometry(model, _span(module, gap, *MODULES[model]), 1 / _RATES[model], module, gap)
    if len(shape) != 2 or shape[0] < 4 or shape[1] < 8:
        raise RequestError("shape", shape, "(y, x) of at least (4, 8)")
    half = (shape[0] // 2 - 1, shape[1])
    small = shape[0] <= module[0] and shape[1] <= module[1]
    module, gap = (half, (2, 0)) if small and shape[0] >= 16 else (module, gap)
    return Geometry("custom", (int(shape[0]), int(shape[1])), 0.0005, module, gap)


def default_mask(geometry: Geometry, seed: int) -> np.ndarray:
    """Return the pixel mask, uint32 (y, x): 1 in the gaps, 2 and 16 at seeded dead and noisy pixels."""
    mask = np.zeros(geometry.shape, "u4")
    mask[_in_gap(geometry.shape[0], geometry.module[0], geometry.gap[0]), :] = 1
    mask[:, _in_gap(geometry.shape[1], geometry.module[1], geometry.gap[1])] = 1
    rng = np.random.default_rng([seed, 1])
    active = int((mask == 0).sum())
    n_bad = round(active * _BAD_PIXELS)
    usable = np.flatnonzero(mask[1:] == 0) + mask.shape[1]  # row 0 carries the stamp
    bad = rng.choice(usable, n_bad, replace=False) if n_bad else usable[:0]
    mask.flat[bad] = np.where(rng.random(n_bad) < 0.5, 2, 16)
    return mask


def _span(module, gap, n_y: int, n_x: int) -> tuple[int, int]:
    return (n_y * module[0] + (n_y - 1) * gap[0], n_x * module[1] + (n_x - 1) * gap[1])


def _in_gap(n: int, module: int, gap: int) -> np.ndarray:
    return np.arange(n) % (module + gap) >= module

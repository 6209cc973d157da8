"""Numbers of a part of a frame: histogram, regions, line profile. Lost and masked pixels are in none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .live_frame import LiveFrame, plain

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

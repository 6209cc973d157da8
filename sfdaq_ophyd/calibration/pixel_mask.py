"""Which pixels are bad, and why (wire reference jungfrau, sections 6.3 and 8.2).

A mask of int64 holds a reason per bit; a mask of bool knows only good and bad. Nothing here writes to a
caller's array.
"""

from __future__ import annotations

import numpy as np

from ..errors import DtypeError, ShapeError
from ..wire.detector_name import MODULE_SHAPE
from .geometry import CHIP, Layout, pixel_index

EMPTY = 1 << 20
"""No pixel here: a gap, or space between modules."""

DOUBLE = 1 << 21
"""A pixel of double size, beside a gap."""

EDGE = 1 << 22
"""Outermost row or column of a module."""

BAD_CONSTANT = 1 << 23
"""Gain or pedestal cannot be used (this package's own bit)."""


def as_reasons(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the reasons of every raw pixel, shape (512 n, 1024), int64.

    An int64 mask gains the bits `DOUBLE` and `EDGE`; a bool mask gives 0 and 1 and gains nothing.

    Raises
    ------
    DtypeError, ShapeError
        Another dtype or shape.
    """
    mask = np.asarray(mask)
    if mask.dtype not in (np.int64, np.bool_):
        raise DtypeError(f"pixel mask: found {mask.dtype}, expected int64 (reason bits) or bool")
    if mask.shape != shape:
        raise ShapeError(f"pixel mask: found shape {mask.shape}, expected {shape}")
    reasons = mask.astype(np.int64)
    if mask.dtype != np.bool_:
        modules = reasons.reshape(-1, *MODULE_SHAPE)
        for axis, length in ((1, MODULE_SHAPE[0]), (2, MODULE_SHAPE[1])):
            beside = np.arange(CHIP, length, CHIP)
            along = [slice(None)] * 3
            along[axis] = np.sort(np.concatenate([beside - 1, beside]))
            modules[tuple(along)] |= DOUBLE
            along[axis] = [0, length - 1]
            modules[tuple(along)] |= EDGE
    return reasons


def is_bad(reasons: np.ndarray, *, double_pixels: str, module_edge_pixels: str) -> np.ndarray:
    """Return True where a reason is left that counts under these options."""
    ignored = (0 if double_pixels == "mask" else DOUBLE) | (0 if module_edge_pixels == "mask" else EDGE)
    return (reasons & ~ignored) != 0


def place(layout: Layout, raw: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Put raw pixels, shape (512 n, 1024) over all modules, into the image `out`; gaps and holes stay."""
    index = pixel_index(layout)
    modules = raw.reshape(-1, *MODULE_SHAPE)
    for module, view in layout.views(out):
        view[index] = modules[module]
    return out


def good_pixels(layout: Layout, bad: np.ndarray, *, interpolated: bool) -> np.ndarray:
    """Return the image's mask, True = good; gaps only if they were `interpolated` from good pixels."""
    good = place(layout, ~bad, np.zeros(layout.shape, dtype=bool))
    if interpolated:
        for _, view in layout.views(good):
            _share(view)
            _share(view.T)
    return good


def _share(view):
    """Gap rows are good where the rows on both sides are."""
    for left in range(CHIP - 1, view.shape[0] - CHIP, CHIP + 2):
        both = view[left] & view[left + 3]
        view[left + 1] = view[left + 2] = both


def _blocks(image: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """View (..., y, x) as (..., blocks in y, ny, blocks in x, nx); ragged edges padded with 0."""
    ny, nx = block
    *_, rows, columns = image.shape
    pad_y, pad_x = -rows % ny, -columns % nx
    if pad_y or pad_x:
        image = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(0, pad_y), (0, pad_x)])
    return image.reshape(*image.shape[:-2], (rows + pad_y) // ny, ny, (columns + pad_x) // nx, nx)


def good_fraction(good: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """Return the good pixels of each block over those of a full block, float64; at ragged edges too."""
    return _blocks(good, block).sum(axis=(-3, -1)) / (block[0] * block[1])


def any_reason(reasons: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """Return the reasons that any pixel of a block has, int64."""
    return np.bitwise_or.reduce(np.bitwise_or.reduce(_blocks(reasons, block), axis=-1), axis=-2)


def downsample(image: np.ndarray, fraction: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """Return for each block the sum of its good pixels over the fraction of good ones, float32.

    Parameters
    ----------
    image : ndarray of float32, shape (..., y, x)
        Bad pixels are 0.
    fraction : ndarray
        As from `good_fraction`; blocks without a good pixel give 0.
    block : (int, int)
        Rows and columns; the result has ceil(y / rows) x ceil(x / columns) pixels.
    """
    total = _blocks(image, block).sum(axis=(-3, -1), dtype=np.float64)
    return np.divide(total, fraction, out=np.zeros_like(total), where=fraction > 0).astype(np.float32)

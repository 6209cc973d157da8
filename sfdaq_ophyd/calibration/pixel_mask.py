"""Which pixels are bad, and why (wire reference jungfrau, sections 6.3 and 8.2).

A mask of int64 holds a reason per bit; a mask of bool knows only good and bad. Nothing here writes to a
caller's array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DtypeError, ShapeError
from ..wire.detector_name import MODULE_SHAPE
from .geometry import CHIP, GAP

EMPTY = 1 << 20
"""No pixel here: a gap, or space between modules."""

DOUBLE = 1 << 21
"""A pixel of double size, beside a gap."""

EDGE = 1 << 22
"""Outermost row or column of a module."""

BAD_CONSTANT = 1 << 23
"""Gain or pedestal cannot be used (this package's own bit)."""


def as_reasons(mask: npt.ArrayLike, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the reasons of every raw pixel, shape (512 n, 1024), int64.

    An int64 mask gains the bits `DOUBLE` and `EDGE`; a bool mask gives 0 and 1 and gains nothing.

    Parameters
    ----------
    mask : array_like of int64 or bool
        Reason bits, or True = bad.
    shape : (int, int)
        (512 n, 1024).

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
            along: list[Any] = [slice(None)] * 3
            along[axis] = np.sort(np.concatenate([beside - 1, beside]))
            modules[tuple(along)] |= DOUBLE
            along[axis] = [0, length - 1]
            modules[tuple(along)] |= EDGE
    return reasons


def is_bad(
    reasons: npt.NDArray[np.int64], *, double_pixels: str, module_edge_pixels: str
) -> npt.NDArray[np.bool_]:
    """Return True where a reason is left that counts under these options.

    `double_pixels` and `module_edge_pixels` are those of `CalibrationOptions`: only "mask" has them count.
    """
    ignored = (0 if double_pixels == "mask" else DOUBLE) | (0 if module_edge_pixels == "mask" else EDGE)
    found: npt.NDArray[np.bool_] = (reasons & ~ignored) != 0
    return found


def share_gaps(module: npt.NDArray[np.bool_]) -> None:
    """Take interpolated gap pixels for good where the pixels on both sides are, in place.

    Parameters
    ----------
    module : ndarray of bool, shape (514, 1030)
        True where a pixel is good.
    """
    for view in (module, module.T):
        for left in range(CHIP - 1, view.shape[0] - CHIP, CHIP + GAP):
            view[left + 1] = view[left + 2] = view[left] & view[left + 3]


def _blocks(image: npt.NDArray[Any], block: tuple[int, int]) -> npt.NDArray[Any]:
    """View (..., y, x) as (..., blocks in y, ny, blocks in x, nx); ragged edges padded with 0."""
    ny, nx = block
    *_, rows, columns = image.shape
    pad_y, pad_x = -rows % ny, -columns % nx
    if pad_y or pad_x:
        image = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(0, pad_y), (0, pad_x)])
    return image.reshape(*image.shape[:-2], (rows + pad_y) // ny, ny, (columns + pad_x) // nx, nx)


def good_fraction(good: npt.NDArray[np.bool_], block: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the good pixels of each block (rows, columns) over those of a full one; at ragged edges too."""
    fraction: npt.NDArray[np.float64] = _blocks(good, block).sum(axis=(-3, -1)) / (block[0] * block[1])
    return fraction


def any_reason(reasons: npt.NDArray[np.int64], block: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the reasons that any pixel of a block (rows, columns) has."""
    found: npt.NDArray[np.int64] = np.bitwise_or.reduce(_blocks(reasons, block), axis=(-3, -1))
    return found


def downsample(
    image: npt.NDArray[np.float32], fraction: npt.NDArray[np.float64], block: tuple[int, int]
) -> npt.NDArray[np.float32]:
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
    total: npt.NDArray[np.float64] = _blocks(image, block).sum(axis=(-3, -1), dtype=np.float64)
    scaled = np.divide(total, fraction, out=np.zeros_like(total), where=fraction > 0)
    return scaled.astype(np.float32)

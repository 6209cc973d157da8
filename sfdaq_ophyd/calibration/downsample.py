"""Sum blocks of pixels, scaled for the bad ones. Contract jungfrau.md, section 6.7."""

from __future__ import annotations

import numpy as np


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

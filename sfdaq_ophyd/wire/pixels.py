"""Pixels of an Eiger frame that hold no counts. Contract eiger-simplon.md, section 6.5."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError

BIT_DEPTHS = (8, 16, 32)

MASK_BITS = {0: "gap", 1: "dead", 2: "under-responding", 3: "over-responding", 4: "noisy"}
"""Bits of ``detector/config/pixel_mask``; any bit set takes the pixel out."""


def first_sentinel(dtype) -> int:
    """Return the lowest value that is a flag, not a count.

    With n bits, 2**n - 1 marks a masked pixel (gap, any bit of the pixel mask, no data), and clients see
    2**n - 2 as a second flag. In 8 bit the counter may roll over, so 254 and 255 can be counts too; they
    are flags here all the same.
    """
    dtype = np.dtype(dtype)
    if dtype.kind != "u" or 8 * dtype.itemsize not in BIT_DEPTHS:
        raise ShapeError(f"an Eiger frame is uint8, uint16 or uint32, not {dtype}")
    return 2 ** (8 * dtype.itemsize) - 2


def invalid_pixels(image: np.ndarray, pixel_mask: np.ndarray | None = None) -> np.ndarray:
    """Mark the pixels that hold no counts.

    Parameters
    ----------
    image : ndarray of uint8, uint16 or uint32, shape (..., y, x)
    pixel_mask : ndarray of uint32, shape (y, x), optional
        The detector's mask: needed only where it was read with ``mask_to_zero``, which leaves no sentinel.

    Returns
    -------
    ndarray of bool, shape like `image`
        True where a pixel must stay out of sums, maxima and scales.
    """
    invalid = image >= first_sentinel(image.dtype)
    if pixel_mask is not None:
        if pixel_mask.shape != image.shape[-2:]:
            raise ShapeError(f"pixel mask of shape {pixel_mask.shape} for frames of {image.shape[-2:]}")
        invalid |= pixel_mask != 0
    return invalid

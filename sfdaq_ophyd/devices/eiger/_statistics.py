"""Numbers computed of each frame: total, maximum, saturated pixels; flagged pixels stay out."""

from __future__ import annotations

import numpy as np

from ...wire.simplon import first_sentinel

BLOCK_BYTES = 2**18
"""Pixels looked at together; they stay in the processor's cache."""


class FrameStatistics:
    """Compute the numbers of one frame after the other.

    Parameters
    ----------
    dtype : numpy dtype
        Of the frames.
    cutoff : int or None
        Largest valid count; None leaves `n_saturated` out.
    exclude_masked : bool
        Leave sentinels (2**n - 1, 2**n - 2) and the pixels of `pixel_mask` out.
    pixel_mask : ndarray, shape (y, x), optional
        Needed only where the detector does not apply its mask: nonzero means bad.
    """

    def __init__(self, dtype, cutoff: int | None, exclude_masked: bool, pixel_mask: np.ndarray | None = None):
        self._dtype = np.dtype(dtype)
        self._cutoff = cutoff
        self._sentinel = first_sentinel(dtype) if exclude_masked else None
        self._good = None if pixel_mask is None or not exclude_masked else pixel_mask == 0

    @property
    def names(self) -> dict[str, str]:
        """Names and numpy types of the numbers."""
        names = {"total": "i8", "max": "i8"}
        return names if self._cutoff is None else names | {"n_saturated": "i8"}

    def of(self, image: np.ndarray) -> dict[str, int]:
        """Return the numbers of `image`, shape (y, x); `max` of a frame without valid pixels is 0."""
        if self._good is not None:
            image = np.where(self._good, image, image.dtype.type(self._sentinel))
        flat = image.reshape(-1)
        step = max(1, BLOCK_BYTES // flat.itemsize)
        total = highest = n_saturated = 0
        for start in range(0, flat.size, step):
            block_total, block_highest, block_saturated = self._of_block(flat[start : start + step])
            total += block_total
            highest = max(highest, block_highest)
            n_saturated += block_saturated
        numbers = {"total": total, "max": highest}
        return numbers if self._cutoff is None else numbers | {"n_saturated": n_saturated}

    def _of_block(self, block: np.ndarray) -> tuple[int, int, int]:
        total, highest, n_flags = int(block.sum(dtype="u8")), int(block.max()), 0
        if self._sentinel is not None and highest >= self._sentinel:
            flags = block[block >= self._sentinel]
            n_flags = flags.size
            total -= int(flags.sum(dtype="u8"))
            shifted = block + block.dtype.type(2)  # the two flags wrap round to 0 and 1
            highest = max(0, int(shifted.max()) - 2)
        if self._cutoff is None or highest <= self._cutoff:
            return total, highest, 0
        return total, highest, int(np.count_nonzero(block > self._cutoff)) - n_flags

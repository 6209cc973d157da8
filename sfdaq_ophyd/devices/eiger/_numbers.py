"""Numbers of a frame: its sum, its maximum, its saturated pixels."""

from __future__ import annotations

import numpy as np

from ...wire.simplon import first_sentinel
from ._control import EigerControl

BLOCK = 2**16
"""Pixels looked at together: they stay in the processor's cache, and counts of 16 bit add up in 32."""


class FrameStatistics:
    """Compute the numbers of one frame after the other.

    `cutoff` is the largest valid count; None leaves `n_saturated` out. With `exclude_masked` sentinels (2**n
    - 1, 2**n - 2) and nonzero pixels of `pixel_mask`, shape (y, x), stay out; the mask is needed only where
    the detector does not apply it.
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
        total = highest = n_saturated = 0
        for start in range(0, flat.size, BLOCK):
            block_total, block_highest, block_saturated = self._of_block(flat[start : start + BLOCK])
            total += block_total
            highest = max(highest, block_highest)
            n_saturated += block_saturated
        numbers = {"total": total, "max": highest}
        return numbers if self._cutoff is None else numbers | {"n_saturated": n_saturated}

    def _of_block(self, block: np.ndarray) -> tuple[int, int, int]:
        sums = "u4" if block.itemsize < 4 else "u8"  # the narrower, the faster
        total, highest, n_flags = int(block.sum(dtype=sums)), int(block.max()), 0
        if self._sentinel is not None and highest >= self._sentinel:
            for flag in (self._sentinel, self._sentinel + 1):
                n = int(np.count_nonzero(block == flag))
                n_flags, total = n_flags + n, total - n * flag
            shifted = block + block.dtype.type(2)  # the two flags wrap round to 0 and 1
            highest = max(0, int(shifted.max()) - 2)
        if self._cutoff is None or highest <= self._cutoff:
            return total, highest, 0
        return total, highest, int(np.count_nonzero(block > self._cutoff)) - n_flags


def make_statistics(control: EigerControl, dtype: str, exclude_masked: bool) -> FrameStatistics:
    """Return what computes the numbers; fetches the pixel mask where the detector does not apply it."""
    cutoff = control.typed("countrate_correction_count_cutoff", "integer")
    mask = None
    if exclude_masked and control.typed("pixel_mask_applied", "boolean") is False:
        mask = control.client.get_array("pixel_mask")
        mask = mask if mask.size else None  # a server without one
    return FrameStatistics(dtype, cutoff, exclude_masked, mask)

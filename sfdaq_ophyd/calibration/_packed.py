"""Constants for the kernel: exact, in three bytes each, because the memory's speed is the kernel's.

The constants of a gain stage lie close together: as integers, the bits of nearly all of them are less than
2^23 (a factor of two) from those of their median. So of each float32 the kernel reads a 24-bit code, the
distance to a base of the module and the stage. Pixels that do not fit, and masked ones, have 0 as the code of
their scale, and that of their pedestal is the place of both numbers in a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..wire.detector_name import MODULE_SHAPE
from ._arrays import aligned_empty

CODES = 1 << 24
"""Number of codes."""

_PIXELS = MODULE_SHAPE[0] * MODULE_SHAPE[1]
_BLOCK = 16
_EVERY = 61
"""Of how many pixels one is looked at for the median."""


class Packed(NamedTuple):
    """The constants of all modules, as the kernel reads them.

    Parameters
    ----------
    common : ndarray of uint16, shape (modules, blocks, 3, 16)
        G0. Of each block of 16 pixels: the low 16 bits of the pedestals, of the scales, and the high 8 bits
        of both, the scale's above.
    rare : ndarray of uint16, shape (modules, blocks, 6, 16)
        The same of G1, then of G2.
    bases : ndarray of int32, shape (modules, 6)
        Bits of code 0, of pedestal and scale per stage.
    exceptions : list of ndarray of float32, shape (n, 2)
        Per module: pedestal and scale of what has no code; first of all, those of masked pixels.
    """

    common: npt.NDArray[np.uint16]
    rare: npt.NDArray[np.uint16]
    bases: npt.NDArray[np.int32]
    exceptions: list[npt.NDArray[np.float32]]


def pack(modules: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]], fill: float) -> Packed:
    """Pack constants.

    Parameters
    ----------
    modules : list of (pedestal, scale)
        Each of float32, shape (3, 512 * 1024), in the order in which the kernel wants the pixels.
    fill : float
        The scale of masked pixels; their pedestal is 0.
    """
    n_blocks = _PIXELS // _BLOCK
    common = aligned_empty((len(modules), n_blocks, 3, _BLOCK), np.dtype(np.uint16))
    rare = aligned_empty((len(modules), n_blocks, 6, _BLOCK), np.dtype(np.uint16))
    bases = np.zeros((len(modules), 6), dtype=np.int32)
    exceptions: list[npt.NDArray[np.float32]] = []
    for i, (pedestal, scale) in enumerate(modules):
        listed = [np.array([[0, fill]], dtype=np.float32)]
        for stage, planes in enumerate(zip(pedestal, scale)):
            words, bases[i, 2 * stage : 2 * stage + 2] = _pack_stage(*planes, listed)
            target, first = (common, 0) if stage == 0 else (rare, 3 * (stage - 1))
            target[i, :, first : first + 3] = words.reshape(3, n_blocks, _BLOCK).swapaxes(0, 1)
        exceptions.append(np.concatenate(listed))
    return Packed(common, rare, bases, exceptions)


def _pack_stage(
    pedestal: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], listed: list[npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[np.uint16], list[int]]:
    """Return the three planes of words and the two bases; append what has no code to `listed`."""
    masked = (pedestal.view(np.int32) == 0) & (scale.view(np.int32) == listed[0].view(np.int32)[0, 1])
    good = ~masked
    bases = [_base(plane.view(np.int32)[good]) for plane in (pedestal, scale)]
    codes = [plane.view(np.int32).astype(np.int64) - base for plane, base in zip((pedestal, scale), bases)]
    fits = good & (codes[0] >= 0) & (codes[0] < CODES) & (codes[1] > 0) & (codes[1] < CODES)
    others = np.flatnonzero(good & ~fits)
    place = sum(map(len, listed))
    low, high = (np.where(fits, code, 0) for code in codes)
    low[others] = np.arange(place, place + len(others))
    listed.append(np.stack([pedestal[others], scale[others]], axis=1))
    words = np.stack([low & 0xFFFF, high & 0xFFFF, low >> 16 | high >> 16 << 8]).astype(np.uint16)
    return words, bases


def _base(bits: npt.NDArray[np.int32]) -> int:
    """Return the bits of code 0: half the codes below the median, as far as there are such numbers."""
    median = int(np.median(bits[::_EVERY])) if bits.size else 0
    return max(median - CODES // 2, np.iinfo(np.int32).min)

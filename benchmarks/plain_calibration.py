"""A calibration kernel in plain numba: what the LLVM engine must beat to be worth its code.

It does the same work (all modules there, float32, masks folded into the constants, gaps, geometry, turns and
holes), with constants of four bytes, stores through the caches, and whatever vector code the compiler finds.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sfdaq_ophyd.calibration import JungfrauCalibration

BAND = 32
"""Rows that are done for every frame of a stack before the next ones, so that constants stay in the cache."""

BLOCK = 64
"""Pixels looked at together: where all are in G0, the loop over them has no branch."""


@njit(nogil=True)
def _calibrate(raw, pedestal, scale, out, places, gap, holes, part, parts):
    """Do one part of `parts`: bands of rows of `raw`, (frames, 512 n, 1024), and holes, in the flat `out`."""
    bands = raw.shape[1] // BAND
    for band in range(part * bands // parts, (part + 1) * bands // parts):
        for frame in range(len(raw)):
            for row in range(BAND * band, BAND * (band + 1)):
                origin, down, right = places[row // 512]
                y = row % 512
                line = origin + down * (y + gap * (y // 256))
                for chip in range(4):
                    for x in range(256 * chip, 256 * (chip + 1), BLOCK):
                        at = line + right * (x + gap * chip)
                        _block(raw[frame, row, x : x + BLOCK], pedestal, scale, row, x, out[frame], at, right)
                    if chip < 3:
                        for k in range(gap):
                            out[frame, line + right * (256 * (chip + 1) + gap * chip + k)] = 0
                if y == 255:
                    for k in range(gap):
                        for x in range(1024 + 3 * gap):
                            out[frame, line + down * (k + 1) + right * x] = 0
    for frame in range(len(raw)):
        for hole in range(part * len(holes) // parts, (part + 1) * len(holes) // parts):
            out[frame, holes[hole, 0] : holes[hole, 1]] = 0


@njit(nogil=True, inline="always")
def _block(words, pedestal, scale, row, x, out, at, right):
    switched = np.uint16(0)
    for i in range(BLOCK):
        switched |= words[i]
    if switched < 0x4000 and right == 1:
        dark, gain = pedestal[0, row, x : x + BLOCK], scale[0, row, x : x + BLOCK]
        image = out[at : at + BLOCK]
        for i in range(BLOCK):
            image[i] = (np.float32(words[i]) - dark[i]) * gain[i]
    else:
        for i in range(BLOCK):
            word = np.int64(words[i])
            stage = min(word >> 14, 2)
            value = np.float32(word & 0x3FFF)
            out[at + right * i] = (value - pedestal[stage, row, x + i]) * scale[stage, row, x + i]


class PlainKernel:
    """Calibrate with the kernel above.

    Parameters
    ----------
    calibration : JungfrauCalibration
        Whose constants and layout are taken; of the options, those of the benchmark's rows.
    """

    def __init__(self, calibration: JungfrauCalibration):
        layout = calibration._placing.layout
        self._constants = calibration._maps.folded(calibration.options, calibration._bad)
        index = np.arange(layout.shape[0] * layout.shape[1]).reshape(layout.shape)
        views = [view for _, view in layout.views(index)]
        self._places = np.array(
            [(view[0, 0], view[1, 0] - view[0, 0], view[0, 1] - view[0, 0]) for view in views]
        )
        covered = np.zeros(layout.shape, dtype=bool)
        for block in layout.blocks(covered):
            block[...] = True
        edges = np.concatenate([[True], covered.ravel(), [True]])
        self._holes = np.flatnonzero(edges[1:] != edges[:-1]).reshape(-1, 2)
        self._gap = 2 if layout.gap_pixels else 0

    def __call__(self, raw: np.ndarray, out: np.ndarray, part: int = 0, parts: int = 1) -> None:
        """Do one part of an image, (y, 1024), or of a stack of them."""
        raw = raw.reshape(-1, *raw.shape[-2:])
        flat = out.reshape(len(raw), -1)
        _calibrate(raw, *self._constants, flat, self._places, self._gap, self._holes, part, parts)

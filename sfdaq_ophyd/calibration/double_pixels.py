"""Share the charge of double pixels with the gaps beside them (wire reference jungfrau, section 6.5)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .geometry import CHIP, GAP

_PERIOD = CHIP + GAP


def interpolate(module: npt.NDArray[np.float32]) -> None:
    """Fill the gap pixels of converted, gap-expanded modules, in place.

    First the corners where four chips meet, then rows, then columns, from the values before each step.
    Products and quotients in float64, stored as float32, differences in float32: charge is conserved per
    double pixel.

    Parameters
    ----------
    module : ndarray of float32, shape (..., 514, 1030)
        A view will do; gap pixels hold anything.
    """
    rows, columns = (range(CHIP - 1, n - CHIP, _PERIOD) for n in module.shape[-2:])
    for y in rows:
        for x in columns:
            _corners(module, y, x)
    for y in rows:
        _pairs(module, y, columns)
    turned = module.swapaxes(-1, -2)
    for x in columns:
        _pairs(turned, x, rows)


def _corners(module: npt.NDArray[np.float32], y: int, x: int) -> None:
    """Give a quarter of each corner pixel to itself and to the three gap pixels of its block."""
    for row, rows in ((y, slice(y, y + 2)), (y + 3, slice(y + 2, y + 4))):
        for column, columns in ((x, slice(x, x + 2)), (x + 3, slice(x + 2, x + 4))):
            module[..., rows, columns] = (module[..., row, column] / np.float32(4))[..., None, None]


def _pairs(module: npt.NDArray[np.float32], y: int, gaps: range) -> None:
    """Share rows `y` and `y + 3` with the two gap rows between, except in the corners."""
    starts = [0, *(x + 4 for x in gaps)]
    ends = [*gaps, module.shape[-1]]
    for start, end in zip(starts, ends):
        v1, v2, v3, v4 = (module[..., y + k, start:end].copy() for k in (-1, 0, 3, 4))
        _share(module, y, y + 1, slice(start, end), v2, v1, v3)
        _share(module, y + 3, y + 2, slice(start, end), v3, v4, v2)


def _share(
    module: npt.NDArray[np.float32],
    double: int,
    gap: int,
    along: slice,
    own: npt.NDArray[np.float32],
    behind: npt.NDArray[np.float32],
    beyond: npt.NDArray[np.float32],
) -> None:
    """Split `own` by the neighbours `behind` and `beyond`; in halves where they cancel exactly."""
    own8, behind8, beyond8 = (v.astype(np.float64) for v in (own, behind, beyond))
    denominator = 6 * behind8 + 3 * beyond8
    zero = denominator == 0
    share = own8 * (4 * behind8 + beyond8) / np.where(zero, 1.0, denominator)
    share = np.where(zero, own8 / 2, share).astype(np.float32)
    module[..., double, along] = share
    module[..., gap, along] = own - share

"""Strip sensors: strips a third as wide as a pixel and three times as long, read out by chips of square ones.

The readout lies as on any module; in the image every pixel is re-sorted to where its strip is. Two sensors
are known. What both have in common: a cell of the image holds one pixel of the readout or none, and a strip
that covers several cells shares its value among them (wire reference jungfrau, section 6.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..wire.detector_name import MODULE_SHAPE, DetectorName
from .geometry import CHIP, GAP, Placement, Scalar, find_row, is_known, make_layout, module_shape

NOTHING = -1
"""In a map: no pixel of the readout is here."""

_QUAD = "JF18"


class StripMap:
    """Re-sort the stacked modules of a detector.

    Parameters
    ----------
    detector_name : str
        One with a strip sensor.
    modules : sequence of int
        Those switched on, in the order in which they are stacked.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the image.
    """

    def __init__(self, detector_name: str, modules: Sequence[int]):
        pixels = module_map(detector_name)
        origins = find_row(detector_name).origins
        rows, columns = (max(o[axis] for o in origins) + pixels.shape[axis] for axis in (0, 1))
        self.shape = (rows, columns)
        index = np.full(self.shape, NOTHING)
        for place, module in enumerate(modules):
            y, x = origins[module]
            block = np.where(pixels == NOTHING, NOTHING, pixels + place * MODULE_SHAPE[0] * MODULE_SHAPE[1])
            index[y : y + block.shape[0], x : x + block.shape[1]] = block
        self._index, self._empty = index, index == NOTHING
        n_cells = np.bincount(index[~self._empty], minlength=index.max() + 1)
        self._shared = ~self._empty & (n_cells[index] > 1)

    def place(self, stacked: npt.NDArray[Any], out: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Put a value per pixel, (..., 512 n, 1024), in its cells of `out`, (..., y, x), and return that.

        Other cells stay as they are.
        """
        flat = stacked.reshape(*stacked.shape[:-2], -1)
        there = ~self._empty
        out[..., there] = flat[..., self._index[there]]
        return out

    def share(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Halve what fills two cells, in place: the charge is that of one strip. Integers lose the half."""
        image[..., self._shared] = image[..., self._shared] / 2
        return image


@cache
def module_map(detector_name: str) -> npt.NDArray[np.intp]:
    """Return for each cell of a strip module's image its pixel, as ``1024 * row + column``, or `NOTHING`."""
    return _quad() if DetectorName.parse(detector_name).family.startswith(_QUAD) else _line()


def _line() -> npt.NDArray[np.intp]:
    """Return the map of the sensors of one row of chips, shape (84, 3090).

    Of 256 rows the first 252 are used, three in one row of strips. Each pixel lies at three times its column,
    in the order of the rows. At the three seams between chips the two columns beside the seam are longer
    strips, that fill six columns each, two cells high: mirror images of each other.
    """
    period, used = 3 * CHIP + 6, 252
    index = np.full((used // 3, 3 * MODULE_SHAPE[1] + 18), NOTHING)
    y, x = np.ix_(np.arange(used), np.arange(MODULE_SHAPE[1]))
    index[y // 3, x // CHIP * period + x % CHIP * 3 + y % 3] = 1024 * y + x
    y = np.arange(used)
    for seam in range(3):
        left = CHIP * (seam + 1) - 1
        first = period * seam + 3 * (CHIP - 1)
        for below in (0, 1):
            index[y // 6 * 2 + below, first + y % 6] = 1024 * y + left
            index[y // 6 * 2 + below, first + 11 - y % 6] = 1024 * y + left + 1
    return index


def _quad() -> npt.NDArray[np.intp]:
    """Return the map of the sensor on the four chips in the middle, shape (1488, 165).

    Nine pixels on every side are guard ring; so are, in effect, the two rows at the seam in the middle, whose
    place is left free. Three pixels side by side are three strips one above the other, in the upper half the
    other way round. The first column has only two.
    """
    guard, seam = 9, 12
    per_half = 3 * (CHIP - 1 - guard)
    index = np.full((2 * per_half + seam, 165), NOTHING)
    x = np.arange(CHIP + guard, 3 * CHIP - guard)
    strip = (x - CHIP - guard + 1) % 3
    column = (x - CHIP - guard + 1) // 3
    for first, start, order in ((guard, 0, strip), (CHIP + 1, per_half + seam, 2 - strip)):
        y = np.arange(CHIP - 1 - guard)[:, None]
        index[start + 3 * y + order, np.broadcast_to(column, (len(y), len(x)))] = 1024 * (first + y) + x
    return index


def pixel_coordinates(
    detector_name: str,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the position of every raw pixel in the processed image, gaps and geometry on.

    Pixels beside a gap are twice as large, and their centre lies half a pixel nearer to it.

    Parameters
    ----------
    detector_name : str
        One that is in no geometry table is stacked plainly.

    Returns
    -------
    x, y, z : ndarray of float64, shape (512 n, 1024)
        Columns, rows and 0, in pixels; NaN for a pixel that a strip sensor does not use.
    """
    name = DetectorName.parse(detector_name)
    if is_known(detector_name) and find_row(detector_name).strip:
        places = zip(find_row(detector_name).origins, [_strips(detector_name)] * name.n_modules)
        blocks = [(oy + y, ox + x) for (oy, ox), (y, x) in places]
    else:
        modules = range(name.n_modules)
        layout = make_layout(detector_name, modules, gap_pixels=True, geometry=is_known(detector_name))
        blocks = [_block(placement) for placement in layout.placements]
    y, x = (np.concatenate([block[axis] for block in blocks]) for axis in (0, 1))
    return x, y, np.zeros_like(x)


def _block(placement: Placement) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return rows and columns of a module's pixels, turned and placed."""
    height, width = module_shape(gap_pixels=True)
    row, column = np.meshgrid(*(_centres(n) for n in MODULE_SHAPE), indexing="ij")
    turned = (
        (row, column),
        (width - 1 - column, row),
        (height - 1 - row, width - 1 - column),
        (column, height - 1 - row),
    )
    y, x = turned[placement.turns]
    return placement.y + y, placement.x + x


def _centres(n: int) -> npt.NDArray[np.float64]:
    pixels = np.arange(n)
    centres: npt.NDArray[np.float64] = pixels + GAP * (pixels // CHIP).astype(float)
    for seam in range(CHIP, n, CHIP):
        centres[seam - 1] += 0.5
        centres[seam] -= 0.5
    return centres


def _strips(detector_name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return rows and columns of a strip module's pixels: the middle of the cells that each fills."""
    index = module_map(detector_name)
    there = index != NOTHING
    pixels = index[there]
    n_pixels = MODULE_SHAPE[0] * MODULE_SHAPE[1]
    with np.errstate(invalid="ignore"):
        n_cells = np.bincount(pixels, minlength=n_pixels)
        sums = (np.bincount(pixels, weights=cells, minlength=n_pixels) for cells in np.nonzero(there))
        y, x = ((total / n_cells).reshape(MODULE_SHAPE) for total in sums)
    return y, x

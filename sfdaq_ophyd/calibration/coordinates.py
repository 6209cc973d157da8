"""Where the centre of each raw pixel lies in the image with gaps and geometry."""

from __future__ import annotations

import numpy as np

from ..wire.detector_name import MODULE_SHAPE, DetectorName
from .geometry import CHIP, GAP, Placement, find_row, is_known, make_layout, module_shape
from .strips import NOTHING, module_map


def pixel_coordinates(detector_name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _block(placement: Placement) -> tuple[np.ndarray, np.ndarray]:
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


def _centres(n: int) -> np.ndarray:
    pixels = np.arange(n)
    centres = pixels + GAP * (pixels // CHIP).astype(float)
    for seam in range(CHIP, n, CHIP):
        centres[seam - 1] += 0.5
        centres[seam] -= 0.5
    return centres


def _strips(detector_name: str) -> tuple[np.ndarray, np.ndarray]:
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

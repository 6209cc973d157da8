"""Where the pixels of raw images go in processed ones: modules in their places, strips, charge beside gaps.

A strip is a third as wide as a pixel and three times as long, and read out by chips of square ones. The
readout lies as on any module; in the image every pixel is re-sorted to where its strip is. Two sensors are
known. What both have in common: a cell of the image holds one pixel of the readout or none, and a strip that
covers several cells shares its value among them (wire reference jungfrau, section 6.6).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DtypeError, ShapeError
from ..wire.detector_name import MODULE_SHAPE, DetectorName
from ._numpy import Sources, aligned_empty
from .geometry import CHIP, GAP, Placement, Scalar, find_row, is_known, is_strip, make_layout, module_shape
from .options import CalibrationOptions

NOTHING = -1
"""In a map: no pixel of the readout is here."""

_QUAD = "JF18"


class StripMap:
    """Re-sort the modules of a strip sensor that are switched on, in the order in which they are stacked."""

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


logger = logging.getLogger(__name__)


def fitted(options: CalibrationOptions, detector_name: str) -> CalibrationOptions:
    """Return what options mean for a detector: strip sensors have no gaps.

    One that is in no geometry table is stacked, with a warning.
    """
    if is_strip(detector_name):
        options = options.with_(gap_pixels=False, double_pixels="keep")
    if options.geometry and not is_known(detector_name):
        logger.warning("%s is in no geometry table: its modules are stacked in y", detector_name)
        options = options.with_(geometry=False)
    return options


class Placing:
    """Turn and place the modules of one detector, or re-sort its strips.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``.
    options : CalibrationOptions
        `module_map`, `gap_pixels` and `geometry` count.

    Attributes
    ----------
    modules : dict of int to int
        Of each module that is switched on, its place among those in the data.
    layout : Layout
        Where modules go; those of a strip sensor are stacked, before its strips are re-sorted.
    strips : StripMap or None
        How they are.
    shape : (int, int)
        Rows and columns of the processed image.
    """

    def __init__(self, detector_name: str, options: CalibrationOptions):
        self._name = DetectorName.parse(detector_name)
        self.modules = options.active_modules(detector_name)
        strip, modules = options.geometry and is_strip(detector_name), list(self.modules)
        in_places = options.geometry and not strip
        self.layout = make_layout(detector_name, modules, gap_pixels=options.gap_pixels, geometry=in_places)
        self.strips = StripMap(detector_name, modules) if strip else None
        self.shape = self.layout.shape if self.strips is None else self.strips.shape

    def check(self, raw: npt.ArrayLike, dtype: type[np.uint16] | None) -> tuple[npt.NDArray[Any], Sources]:
        """Return `raw` with contiguous images, and of each module its place in it.

        It has the shape (y, 1024) or (frames, y, 1024), of all modules of the detector or only those switched
        on; a `dtype` of None takes any. DtypeError or ShapeError if it is something else.
        """
        raw = np.asarray(raw)
        if dtype is not None and raw.dtype != dtype:
            raise DtypeError(f"raw image of {self._name}: found {raw.dtype}, expected uint16")
        rows, columns = raw.shape[-2:] if raw.ndim in (2, 3) else (0, 0)
        if raw.strides[-2:] != (columns * raw.itemsize, raw.itemsize):
            raw = np.ascontiguousarray(raw)
        n_active, (height, width) = len(self.modules), self._name.raw_shape
        if columns == width:
            if rows == height:
                return raw, {module: module for module in self.modules}
            if rows == MODULE_SHAPE[0] * n_active and max(self.modules.values()) < n_active:
                return raw, self.modules
        active = "" if n_active == self._name.n_modules else f" or ({MODULE_SHAPE[0] * n_active}, {width})"
        expected = f"({height}, {width}){active}, or a stack"
        raise ShapeError(f"raw image of {self._name}: found shape {raw.shape}, expected {expected}")

    def fill(
        self, out: npt.NDArray[Scalar], write: Callable[[npt.NDArray[Scalar]], object], empty: float
    ) -> npt.NDArray[Scalar]:
        """Have `write` fill images of the layout's shape; those of strip sensors are re-sorted into `out`.

        That, (..., y, x), is written completely, and returned; `empty` where a strip sensor has no pixel.
        """
        if self.strips is None:
            write(out)
            return out
        whole = aligned_empty((*out.shape[:-2], *self.layout.shape), out.dtype)
        write(whole)
        out[...] = empty
        return self.strips.place(whole, out)

    def place(
        self,
        values: npt.NDArray[Scalar],
        sources: Sources | None = None,
        out: npt.NDArray[Scalar] | None = None,
        *,
        empty: int = 0,
        bad: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[Scalar]:
        """Return a value per raw pixel, (..., 512 n, 1024), where the processed image, (..., y, x), has it.

        Parameters
        ----------
        sources : dict, optional
            As from `check`; default is all modules of the detector.
        empty : int
            What stands in gaps and holes.
        bad : ndarray of bool, shape (512 n, 1024), optional
            Pixels of all modules that are 0.
        """
        if out is None:
            out = np.empty((*values.shape[:-2], *self.shape), dtype=values.dtype)
        modules = values.reshape(*values.shape[:-2], -1, *MODULE_SHAPE)
        masked = None if bad is None else bad.reshape(-1, *MODULE_SHAPE)

        def pixels(module: int) -> npt.NDArray[Scalar]:
            found = modules[..., module if sources is None else sources[module], :, :]
            return found if masked is None else np.where(masked[module], found.dtype.type(0), found)

        def write(image: npt.NDArray[Scalar]) -> None:
            image[...] = empty
            self.layout.put(image, pixels)

        return self.fill(out, write, empty)

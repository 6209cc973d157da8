"""Where the pixels of raw images go in processed ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DtypeError, ShapeError
from ..wire.detector_name import MODULE_SHAPE, DetectorName
from ._arrays import Sources, aligned_empty
from .geometry import Scalar, is_known, is_strip, make_layout
from .options import CalibrationOptions
from .strips import StripMap

logger = logging.getLogger(__name__)


def fitted(options: CalibrationOptions, detector_name: str) -> CalibrationOptions:
    """Return what options mean for a detector: strip sensors have no gaps, and some are in no table.

    Parameters
    ----------
    options : CalibrationOptions
        As wanted.
    detector_name : str
        E.g. ``"JF01T03V01"``; one in no geometry table is stacked, with a warning.
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

        Parameters
        ----------
        raw : array, shape (y, 1024) or (frames, y, 1024)
            All modules of the detector, or only those switched on.
        dtype : dtype or None
            What it must be; None takes anything.

        Raises
        ------
        DtypeError, ShapeError
            It is something else.
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
        """Have `write` fill images of the layout; those of a strip sensor are then re-sorted into `out`.

        Parameters
        ----------
        out : ndarray, shape (..., y, x)
            Of `shape`; written completely, and returned.
        write : callable
            Called with an array of images of the layout's shape.
        empty : float
            Where a strip sensor has no pixel.
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
        """Return a value per pixel where the processed image has it.

        Parameters
        ----------
        values : ndarray, shape (..., 512 n, 1024)
            As raw images.
        sources : dict, optional
            As from `check`; default is all modules of the detector.
        out : ndarray, shape (..., y, x), optional
            Written to.
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

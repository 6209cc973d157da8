"""Which engine does the work, and the one of plain numpy: without numba, and as the other one's measure."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, is_installed, require
from ..wire.detector_name import MODULE_SHAPE
from ._arrays import Sources
from .geometry import Layout
from .options import CalibrationOptions
from .raw_pixels import ADC_BITS, CODE_SHIFT, LOST, UNDEFINED_CODE

MAX_THREADS = 8
"""Default limit of threads per call: memory is busy long before."""


def choose_engine(wanted: object) -> str:
    """Return "numba" or "numpy"; ExtraMissing where numba was wanted and is not there."""
    if wanted not in ("auto", "numba", "numpy"):
        raise RequestError("engine", wanted, "'auto', 'numba' or 'numpy'")
    present = is_installed("numba")
    if wanted == "numba":
        require("calibration", "engine='numba'", "numba")
    return "numba" if present and wanted != "numpy" else "numpy"


def choose_threads(wanted: object) -> int:
    """Return `wanted`, or one thread per CPU up to `MAX_THREADS`."""
    if wanted is None:
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise RequestError("n_threads", wanted, "an integer of at least 1, or None")
    return wanted


class Engine(Protocol):
    """What turns a stack of raw images into processed ones."""

    def run(self, raw: npt.NDArray[Any], sources: Sources, out: npt.NDArray[Any]) -> None:
        """Write `raw`, shape (frames, rows, 1024), to `out`, shape (frames, y, x)."""


class NumpyEngine:
    """Calibrate with numpy, module by module.

    Parameters
    ----------
    layout : Layout
        Where modules go.
    pedestal, scale : ndarray of float32, shape (3, 512 n, 1024)
        Per gain stage; masked pixels have pedestal 0 and the fill value as scale.
    dtype : numpy.dtype
        float32, or int32: rounded half to even.
    options : CalibrationOptions
        What bad pixels, gaps and holes are, and whether code 2 and 0xFFFF count as bad.
    """

    def __init__(
        self,
        layout: Layout,
        pedestal: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        dtype: np.dtype[Any],
        options: CalibrationOptions,
    ):
        self._layout, self._dtype, self._options = layout, dtype, options
        self._pedestal = pedestal.reshape(3, -1, *MODULE_SHAPE)
        self._scale = scale.reshape(3, -1, *MODULE_SHAPE)

    def run(self, raw: npt.NDArray[Any], sources: Sources, out: npt.NDArray[Any]) -> None:
        """Calibrate `raw` (frames, rows, 1024) into `out` (frames, y, x); `sources`: module to its place."""
        modules = raw.reshape(len(raw), -1, *MODULE_SHAPE)
        for frame, image in zip(modules, out):
            image[...] = self._options.inner_fill
            self._layout.put(image, partial(self._convert, frame, sources))

    def _convert(self, frame: npt.NDArray[np.uint16], sources: Sources, module: int) -> npt.NDArray[Any]:
        words = frame[sources[module]]
        code = words >> CODE_SHIFT
        pedestal, scale = self._pedestal[0, module].copy(), self._scale[0, module].copy()
        for stage, here in ((1, code == 1), (2, code >= 2)):
            pedestal[here] = self._pedestal[stage, module][here]
            scale[here] = self._scale[stage, module][here]
        for wanted, here in (
            (self._options.mask_undefined_gain, code == UNDEFINED_CODE),
            (self._options.mask_lost_packets, words == LOST),
        ):
            if wanted:
                pedestal[here], scale[here] = 0, self._options.inner_fill
        value: npt.NDArray[np.float32] = ((words & ADC_BITS).astype(np.float32) - pedestal) * scale
        return np.rint(value).astype(self._dtype) if self._dtype.kind == "i" else value


def make_engine(name: str, n_threads: int, *settings: Any) -> Engine:
    """Return the engine of that name; `settings` are those of `NumpyEngine`."""
    if name == "numpy":
        return NumpyEngine(*settings)
    from ._fused import FusedEngine

    return FusedEngine(n_threads, *settings)

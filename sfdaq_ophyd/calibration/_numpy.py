"""The same numbers without numba: plain numpy, for machines without it and as the kernel's measure."""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import DtypeError, RequestError, ShapeError, is_installed, require
from ..wire.detector_name import MODULE_SHAPE
from .geometry import Layout, Scalar, pixel_index
from .raw_pixels import ADC_BITS, CODE_SHIFT, LOST, UNDEFINED_CODE

LINE = 64
"""Bytes of a cache line."""


def address(array: npt.NDArray[Any]) -> int:
    """Return where the first element lies."""
    return int(array.__array_interface__["data"][0])


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Scalar]) -> npt.NDArray[Scalar]:
    """Return an uninitialised array that starts on a cache line."""
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(n_bytes + LINE, dtype=np.uint8)
    start = -address(memory) % LINE
    return memory[start : start + n_bytes].view(dtype).reshape(shape)


MAX_THREADS = 8
"""Default limit of threads per call: memory is busy long before."""


def stacked(
    raw: npt.NDArray[Any], sources: Sources, out: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], Sources, npt.NDArray[Any]]:
    """Return the arguments with a leading axis of frames."""
    return (raw, sources, out) if raw.ndim == 3 else (raw[None], sources, out[None])


def checked_out(out: object, shape: tuple[int, ...], dtype: np.dtype[Scalar]) -> npt.NDArray[Scalar]:
    """Return `out` if results can be written to it; ShapeError or DtypeError otherwise."""
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        raise DtypeError(f"out: found {getattr(out, 'dtype', type(out))}, expected an array of {dtype}")
    if out.shape != shape:
        raise ShapeError(f"out: found shape {out.shape}, expected {shape}")
    if not out.flags.writeable or out.strides[-2:] != (shape[-1] * dtype.itemsize, dtype.itemsize):
        raise ShapeError(
            "out: found an array that is read-only or not in C order, expected a writable one in C order"
        )
    return out


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


Sources = dict[int, int]
"""Of each module that is switched on, its place among the modules in the data."""


class Engine(Protocol):
    """What turns a stack of raw images into processed ones."""

    def run(self, raw: npt.NDArray[Any], sources: Sources, out: npt.NDArray[Any]) -> None:
        """Write `raw`, shape (frames, rows, 1024), to `out`, shape (frames, y, x)."""


class PlacingEngine:
    """Put raw words, or anything else per pixel, in their places; bad pixels, gaps and holes are 0.

    Parameters
    ----------
    layout : Layout
        Where modules go.
    bad : ndarray of bool, shape (512 n, 1024), optional
        Masked pixels of all modules.
    """

    def __init__(self, layout: Layout, bad: npt.NDArray[np.bool_] | None = None):
        self._layout = layout
        self._bad = None if bad is None else bad.reshape(-1, *MODULE_SHAPE)
        self._pixels = pixel_index(layout)

    def run(self, raw: npt.NDArray[Any], sources: Sources, out: npt.NDArray[Any]) -> None:
        """Place `raw` (frames, rows, 1024) in `out` (frames, y, x); `sources` is module -> place in raw."""
        modules = raw.reshape(len(raw), -1, *MODULE_SHAPE)
        out[...] = 0
        for module, view in self._layout.views(out):
            words = modules[:, sources[module]]
            if self._bad is not None:
                words = np.where(self._bad[module], words.dtype.type(0), words)
            view[(slice(None), *self._pixels)] = words


class NumpyEngine:
    """Calibrate with numpy, module by module.

    Parameters
    ----------
    layout : Layout
        Where modules go.
    pedestal, scale : ndarray of float32, shape (3, 512 n, 1024)
        Per gain stage; masked pixels have pedestal 0 and `fill` as scale.
    dtype : numpy.dtype
        float32, or int32: rounded half to even.
    fill : float
        Value of bad pixels, gaps and holes.
    mask_undefined, mask_lost : bool
        Whether code 2 and 0xFFFF count as bad.
    """

    def __init__(
        self,
        layout: Layout,
        pedestal: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        dtype: np.dtype[Any],
        fill: float,
        mask_undefined: bool,
        mask_lost: bool,
    ):
        self._layout, self._dtype, self._fill = layout, dtype, np.float32(fill)
        self._pedestal = pedestal.reshape(3, -1, *MODULE_SHAPE)
        self._scale = scale.reshape(3, -1, *MODULE_SHAPE)
        self._mask_undefined, self._mask_lost = mask_undefined, mask_lost
        self._pixels = pixel_index(layout)

    def run(self, raw: npt.NDArray[Any], sources: Sources, out: npt.NDArray[Any]) -> None:
        """Calibrate `raw` (frames, rows, 1024) into `out` (frames, y, x); `sources`: module to its place."""
        modules = raw.reshape(len(raw), -1, *MODULE_SHAPE)
        for frame, image in zip(modules, out):
            image[...] = self._fill
            for module, view in self._layout.views(image):
                view[self._pixels] = self._convert(frame[sources[module]], module)

    def _convert(self, words: npt.NDArray[np.uint16], module: int) -> npt.NDArray[Any]:
        code = words >> CODE_SHIFT
        pedestal, scale = self._pedestal[0, module].copy(), self._scale[0, module].copy()
        for stage, here in ((1, code == 1), (2, code >= 2)):
            pedestal[here] = self._pedestal[stage, module][here]
            scale[here] = self._scale[stage, module][here]
        for wanted, here in (
            (self._mask_undefined, code == UNDEFINED_CODE),
            (self._mask_lost, words == LOST),
        ):
            if wanted:
                pedestal[here], scale[here] = 0, self._fill
        value: npt.NDArray[np.float32] = ((words & ADC_BITS).astype(np.float32) - pedestal) * scale
        return np.rint(value).astype(self._dtype) if self._dtype.kind == "i" else value

"""Arrays that go into an engine and come out of it; and the engine of plain numpy, the other's measure."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DtypeError, ShapeError
from ..wire.detector_name import MODULE_SHAPE
from .geometry import Layout, Scalar
from .options import CalibrationOptions
from .raw_pixels import ADC_BITS, CODE_SHIFT, LOST, UNDEFINED_CODE

Sources = dict[int, int]
"""Of each module that is switched on, its place among the modules in the data."""

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

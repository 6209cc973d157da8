"""Arrays that go into an engine, and come out of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DtypeError, ShapeError
from .geometry import Scalar

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

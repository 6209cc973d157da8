"""What a calibration checks at the door: its output array, its engine, its threads."""

from __future__ import annotations

import os

import numpy as np

from ..errors import DtypeError, RequestError, ShapeError, is_installed, require

MAX_THREADS = 8
"""Default limit of threads per call: memory is busy long before."""


def stacked(raw, sources, out):
    """Return the arguments with a leading axis of frames."""
    return (raw, sources, out) if raw.ndim == 3 else (raw[None], sources, out[None])


def checked_out(out, shape, dtype):
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


def choose_engine(wanted):
    """Return "numba" or "numpy"; ExtraMissing where numba was wanted and is not there."""
    if wanted not in ("auto", "numba", "numpy"):
        raise RequestError("engine", wanted, "'auto', 'numba' or 'numpy'")
    present = is_installed("numba")
    if wanted == "numba":
        require("calibration", "engine='numba'", "numba")
    return "numba" if present and wanted != "numpy" else "numpy"


def choose_threads(wanted):
    """Return `wanted`, or one thread per CPU up to `MAX_THREADS`."""
    if wanted is None:
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise RequestError("n_threads", wanted, "an integer of at least 1, or None")
    return wanted

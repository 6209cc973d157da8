"""Gain and pedestal maps: checked, chosen for the gain mode, and folded into one factor per stage."""

from __future__ import annotations

import hashlib

import numpy as np

from ..errors import DtypeError, RequestError, ShapeError
from ..wire.detector_name import DetectorName

HIGH_GAIN_STAGES = {4: (3, 3, 3), 6: (3, 4, 5), 3: (0, 1, 2)}
"""Planes for stages 0, 1, 2 in high gain, by number of planes; three pedestals were taken in high gain."""


def as_planes(name: str, maps: object, detector_name: str, n_planes: tuple[int, ...]) -> np.ndarray:
    """Return gain or pedestal maps as float32, shape (planes, 512 n, 1024).

    Parameters
    ----------
    name : str
        What they are, for messages.
    maps : array of numbers
        Maps of all modules, also of those that are switched off.
    n_planes : tuple of int
        Allowed numbers of planes.

    Raises
    ------
    DtypeError, ShapeError
        Not numbers, or of another shape.
    """
    maps = np.asarray(maps)
    if maps.dtype.kind not in "fiu":
        raise DtypeError(f"{name} of {detector_name}: found {maps.dtype}, expected real numbers")
    expected = DetectorName.parse(detector_name).raw_shape
    if maps.ndim != 3 or maps.shape[0] not in n_planes or maps.shape[1:] != expected:
        planes = " or ".join(map(str, n_planes))
        rows, columns = expected
        raise ShapeError(
            f"{name} of {detector_name}: found shape {maps.shape}, expected ({planes}, {rows}, {columns})"
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(maps, dtype=np.float32)


def stages(planes: np.ndarray, *, highgain: bool) -> np.ndarray:
    """Return the three planes for gain codes 0, 1 and 2 or 3."""
    return planes[list(HIGH_GAIN_STAGES[len(planes)])] if highgain else planes[:3]


def reciprocal(gain: np.ndarray, factor: float | None) -> np.ndarray:
    """Return 1 / gain, or 1 / factor / gain, as float32: multiplying by it is the contract's arithmetic."""
    one = np.float32(1.0 if factor is None else 1.0 / factor)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return one / gain


def unusable(gain: np.ndarray, pedestal: np.ndarray) -> np.ndarray:
    """Return True where a pixel has a gain of 0, NaN or infinity, or such a pedestal, in any stage."""
    with np.errstate(divide="ignore"):
        fine = np.isfinite(gain) & np.isfinite(np.float32(1) / gain) & np.isfinite(pedestal)
    return ~fine.all(axis=0)


def refuse(bad: np.ndarray, gain: np.ndarray, pedestal: np.ndarray, source: str) -> None:
    """Raise RequestError for pixels that cannot be calibrated; the first one is shown."""
    y, x = np.argwhere(bad)[0]
    raise RequestError(
        f"constants of {source}",
        f"gain {gain[:, y, x].tolist()}, pedestal {pedestal[:, y, x].tolist()} at row {y}, column {x}",
        "finite numbers and no gain of 0 on unmasked pixels; "
        f"{int(bad.sum())} have others: mask them, or pass bad_constants='mask'",
    )


def check_range(scale: np.ndarray, pedestal: np.ndarray, factor: float, good: np.ndarray) -> None:
    """Refuse a factor so small that int32 cannot hold the largest ADC value."""
    span = np.maximum(np.abs(pedestal), np.abs(np.float32(16383) - pedestal))
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.max(span * np.abs(scale), where=good, initial=0)
    if not largest < 2**31:
        raise RequestError("factor", factor, f"one that keeps {largest:.3g} counts below 2**31")


def digest(*arrays: np.ndarray | None) -> str:
    """Return a SHA-256 of arrays: shape, dtype and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        if array is None:
            sha.update(b"none")
            continue
        sha.update(f"{array.shape}{array.dtype.str}".encode())
        sha.update(np.ascontiguousarray(array).view("u1").data)
    return sha.hexdigest()

"""Gain and pedestal maps: checked, chosen for the gain mode, and folded into one factor per stage."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadConstant, DtypeError, RequestError, ShapeError
from ..wire.detector_name import DetectorName

HIGH_GAIN_STAGES = {4: (3, 3, 3), 6: (3, 4, 5), 3: (0, 1, 2)}
"""Planes for stages 0, 1, 2 in high gain, by number of planes; three pedestals were taken in high gain."""

STAGES = ("G0", "G1", "G2", "HG0", "HG1", "HG2")
"""Names of the planes, in their order in files."""


def as_planes(
    name: str, maps: npt.ArrayLike, detector_name: str, n_planes: tuple[int, ...]
) -> npt.NDArray[np.float32]:
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


def plane_numbers(planes: npt.NDArray[np.float32], *, highgain: bool) -> tuple[int, ...]:
    """Return which planes belong to gain codes 0, 1 and 2 or 3."""
    return HIGH_GAIN_STAGES[len(planes)] if highgain else (0, 1, 2)


def stages(planes: npt.NDArray[np.float32], *, highgain: bool) -> npt.NDArray[np.float32]:
    """Return the three planes for gain codes 0, 1 and 2 or 3."""
    return planes[list(plane_numbers(planes, highgain=highgain))] if highgain else planes[:3]


def reciprocal(gain: npt.NDArray[np.float32], factor: float | None) -> npt.NDArray[np.float32]:
    """Return 1 / gain, or 1 / factor / gain (factor in keV): the wire reference multiplies by it.

    It is infinite where the gain, ADU/keV, is 0.
    """
    one = np.float32(1.0 if factor is None else 1.0 / factor)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return one / gain


def unusable_gain(gain: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return True where a gain is 0, NaN or infinity, or so small that its reciprocal is infinite."""
    with np.errstate(divide="ignore", over="ignore"):
        usable: npt.NDArray[np.bool_] = np.isfinite(gain) & np.isfinite(np.float32(1) / gain)
        return ~usable


def unusable(gain: npt.NDArray[np.float32], pedestal: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return True, shape (512 n, 1024), where any of three stages has an unusable gain or pedestal."""
    found = unusable_gain(gain) | ~np.isfinite(pedestal)
    in_any_stage: npt.NDArray[np.bool_] = np.logical_or.reduce(found, axis=0)
    return in_any_stage


def refuse(
    bad: npt.NDArray[np.bool_],
    gain: npt.NDArray[np.float32],
    pedestal: npt.NDArray[np.float32],
    highgain: bool,
    of: str,
) -> None:
    """Raise BadConstant for pixels that cannot be calibrated: the first one, in the first map that has it.

    Maps are as they came; `highgain` says which planes are in use, `of` names detector and files.
    """
    y, x = (int(i) for i in np.argwhere(bad)[0])
    for maps, planes in (("gain", gain), ("pedestal", pedestal)):
        for plane in plane_numbers(planes, highgain=highgain):
            value = planes[plane, y, x]
            if not np.isfinite(value) or (maps == "gain" and unusable_gain(value)):
                n_pixels = int(bad.sum())
                raise BadConstant(maps, STAGES[plane], y, x, value=float(value), n_pixels=n_pixels, of=of)


def check_range(
    scale: npt.NDArray[np.float32],
    pedestal: npt.NDArray[np.float32],
    factor: float,
    good: npt.NDArray[np.bool_],
) -> None:
    """Refuse a factor (keV) so small that int32 cannot hold the largest ADC value of a good pixel.

    Scale and pedestal, shape (3, 512 n, 1024), are as the engine gets them.
    """
    span = np.maximum(np.abs(pedestal), np.abs(np.float32(16383) - pedestal))
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.max(span * np.abs(scale), where=good, initial=0)
    if not largest < 2**31:
        raise RequestError("factor", factor, f"one that keeps {largest:.3g} counts below 2**31")


def digest(*arrays: npt.NDArray[Any] | None) -> str:
    """Return a SHA-256 of arrays: shape, dtype and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        if array is None:
            sha.update(b"none")
            continue
        sha.update(f"{array.shape}{array.dtype.str}".encode())
        sha.update(np.ascontiguousarray(array).view("u1").data)
    return sha.hexdigest()

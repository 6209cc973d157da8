"""Maps of gain, pedestal and bad pixels: checked, chosen for the gain mode, folded into one factor per stage.

A mask of int64 holds a reason per bit (wire reference jungfrau, sections 6.3 and 8.2); a mask of bool knows
only good and bad. Nothing here writes to a caller's array.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadConstant, ConstantsMissing, DtypeError, RequestError, ShapeError
from ..wire.detector_name import MODULE_SHAPE, DetectorName
from .geometry import CHIP, GAP
from .options import CalibrationOptions

EMPTY = 1 << 20
"""No pixel here: a gap, or space between modules."""

DOUBLE = 1 << 21
"""A pixel of double size, beside a gap."""

EDGE = 1 << 22
"""Outermost row or column of a module."""

BAD_CONSTANT = 1 << 23
"""Gain or pedestal cannot be used (this package's own bit)."""


def as_reasons(mask: npt.ArrayLike, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the reasons of every raw pixel, int64, of that shape, (512 n, 1024).

    A mask of int64 (reason bits) gains the bits `DOUBLE` and `EDGE`; one of bool (True = bad) gives 0 and 1
    and gains nothing. Any other is refused by a DtypeError or a ShapeError.
    """
    mask = np.asarray(mask)
    if mask.dtype not in (np.int64, np.bool_):
        raise DtypeError(f"pixel mask: found {mask.dtype}, expected int64 (reason bits) or bool")
    if mask.shape != shape:
        raise ShapeError(f"pixel mask: found shape {mask.shape}, expected {shape}")
    reasons = mask.astype(np.int64)
    if mask.dtype != np.bool_:
        modules = reasons.reshape(-1, *MODULE_SHAPE)
        for axis, length in ((1, MODULE_SHAPE[0]), (2, MODULE_SHAPE[1])):
            beside = np.arange(CHIP, length, CHIP)
            along: list[Any] = [slice(None)] * 3
            along[axis] = np.sort(np.concatenate([beside - 1, beside]))
            modules[tuple(along)] |= DOUBLE
            along[axis] = [0, length - 1]
            modules[tuple(along)] |= EDGE
    return reasons


def is_bad(
    reasons: npt.NDArray[np.int64], *, double_pixels: str, module_edge_pixels: str
) -> npt.NDArray[np.bool_]:
    """Return True where a reason is left that counts under these options.

    `double_pixels` and `module_edge_pixels` are those of `CalibrationOptions`: only "mask" has them count.
    """
    ignored = (0 if double_pixels == "mask" else DOUBLE) | (0 if module_edge_pixels == "mask" else EDGE)
    found: npt.NDArray[np.bool_] = (reasons & ~ignored) != 0
    return found


def share_gaps(module: npt.NDArray[np.bool_]) -> None:
    """Take interpolated gap pixels for good (True) where both sides are; a module (514, 1030), in place."""
    for view in (module, module.T):
        for left in range(CHIP - 1, view.shape[0] - CHIP, CHIP + GAP):
            view[left + 1] = view[left + 2] = view[left] & view[left + 3]


def _blocks(image: npt.NDArray[Any], block: tuple[int, int]) -> npt.NDArray[Any]:
    """View (..., y, x) as (..., blocks in y, ny, blocks in x, nx); ragged edges padded with 0."""
    ny, nx = block
    *_, rows, columns = image.shape
    pad_y, pad_x = -rows % ny, -columns % nx
    if pad_y or pad_x:
        image = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(0, pad_y), (0, pad_x)])
    return image.reshape(*image.shape[:-2], (rows + pad_y) // ny, ny, (columns + pad_x) // nx, nx)


def good_fraction(good: npt.NDArray[np.bool_], block: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the good pixels of each block (rows, columns) over those of a full one; at ragged edges too."""
    fraction: npt.NDArray[np.float64] = _blocks(good, block).sum(axis=(-3, -1)) / (block[0] * block[1])
    return fraction


def any_reason(reasons: npt.NDArray[np.int64], block: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the reasons that any pixel of a block (rows, columns) has."""
    found: npt.NDArray[np.int64] = np.bitwise_or.reduce(_blocks(reasons, block), axis=(-3, -1))
    return found


def downsample(
    image: npt.NDArray[np.float32], fraction: npt.NDArray[np.float64], block: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Return for each block the sum of its good pixels over the fraction of good ones, float32.

    In `image`, (..., y, x), bad pixels are 0; `fraction` is as from `good_fraction`. A block (rows, columns)
    without a good pixel gives 0; the result has ceil(y / rows) x ceil(x / columns) pixels.
    """
    total: npt.NDArray[np.float64] = _blocks(image, block).sum(axis=(-3, -1), dtype=np.float64)
    scaled = np.divide(total, fraction, out=np.zeros_like(total), where=fraction > 0)
    return scaled.astype(np.float32)


HIGH_GAIN_STAGES = {4: (3, 3, 3), 6: (3, 4, 5), 3: (0, 1, 2)}
"""Planes for stages 0, 1, 2 in high gain, by number of planes; three pedestals were taken in high gain."""

STAGES = ("G0", "G1", "G2", "HG0", "HG1", "HG2")
"""Names of the planes, in their order in files."""


def as_planes(
    name: str, maps: npt.ArrayLike, detector_name: str, n_planes: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Return gain or pedestal maps as float32, shape (planes, 512 n, 1024), of all modules, on or off.

    DtypeError or ShapeError, which say what they are by `name`, where they are no numbers or of another shape
    or number of planes.
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


def _unusable_gain(gain: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return True where a gain is 0, NaN or infinity, or so small that its reciprocal is infinite."""
    with np.errstate(divide="ignore", over="ignore"):
        usable: npt.NDArray[np.bool_] = np.isfinite(gain) & np.isfinite(np.float32(1) / gain)
        return ~usable


def _unusable(gain: npt.NDArray[np.float32], pedestal: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return True, shape (512 n, 1024), where any of three stages has an unusable gain or pedestal."""
    found = _unusable_gain(gain) | ~np.isfinite(pedestal)
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
            if not np.isfinite(value) or (maps == "gain" and _unusable_gain(value)):
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


@dataclass(frozen=True)
class Maps:
    """Gain, pedestal and reasons of bad pixels.

    Parameters
    ----------
    detector_name : str
        Whose they are.
    gain : ndarray of float32, shape (4 or 6, 512 n, 1024), or None
        ADU/keV.
    pedestal : ndarray of float32, shape (3 or 4, 512 n, 1024), or None
        ADU.
    reasons : ndarray of int64, shape (512 n, 1024), or None
        A bit per reason; 0 is good.
    source : str
        The files they came from, for messages.
    """

    detector_name: str
    gain: npt.NDArray[np.float32] | None
    pedestal: npt.NDArray[np.float32] | None
    reasons: npt.NDArray[np.int64] | None
    source: str = ""

    @classmethod
    def checked(cls, detector_name: str, gain: Any, pedestal: Any, mask: Any, source: str = "") -> Maps:
        """Take what a user gives; ShapeError or DtypeError where it does not fit the detector."""
        return cls(
            detector_name,
            None if gain is None else as_planes("gain", gain, detector_name, (4, 6)),
            None if pedestal is None else as_planes("pedestal", pedestal, detector_name, (3, 4)),
            None if mask is None else as_reasons(mask, DetectorName.parse(detector_name).raw_shape),
            source,
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all three."""
        return digest(self.gain, self.pedestal, self.reasons)

    def require(self, options: CalibrationOptions) -> None:
        """Raise ConstantsMissing if the options need a map that is not there."""
        if options.conversion:
            self._gain_and_pedestal()
        masked = options.mask or options.downsample is not None or options.double_pixels == "mask"
        if masked and self.reasons is None:
            raise ConstantsMissing(
                f"{self.detector_name}: masking needs a pixel mask; pass one or mask=False"
            )

    def _gain_and_pedestal(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        for name, given in (("gain", self.gain), ("pedestal", self.pedestal)):
            if given is None:
                raise ConstantsMissing(
                    f"{self.detector_name}: conversion needs {name} maps; pass them or conversion=False"
                )
        assert self.gain is not None and self.pedestal is not None
        return self.gain, self.pedestal

    def bad(self, options: CalibrationOptions) -> npt.NDArray[np.bool_]:
        """Return True where these options mask a raw pixel, shape (512 n, 1024)."""
        if self.reasons is None or options.mask is False:
            return np.zeros(DetectorName.parse(self.detector_name).raw_shape, dtype=bool)
        return is_bad(
            self.reasons, double_pixels=options.double_pixels, module_edge_pixels=options.module_edge_pixels
        )

    def usable(self, options: CalibrationOptions) -> Maps:
        """Refuse gains of 0 and the like on pixels in use (BadConstant), or give a reason to mask these."""
        modules = np.zeros(DetectorName.parse(self.detector_name).n_modules, dtype=bool)
        modules[list(options.active_modules(self.detector_name))] = True
        gain, pedestal = self.stages(options)
        unusable = _unusable(gain, pedestal) & ~self.bad(options)
        unusable &= np.repeat(modules, MODULE_SHAPE[0])[:, None]
        if not unusable.any():
            return self
        if options.bad_constants == "raise" or options.mask is False:
            of = self.detector_name + self.source
            refuse(unusable, *self._gain_and_pedestal(), options.highgain, of)
        reasons = np.zeros(unusable.shape, dtype=np.int64) if self.reasons is None else self.reasons
        reasons = reasons | np.where(unusable, BAD_CONSTANT, 0)
        return Maps(self.detector_name, self.gain, self.pedestal, reasons, self.source)

    def stages(self, options: CalibrationOptions) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return gain and pedestal planes for the three gain stages in use."""
        gain, pedestal = self._gain_and_pedestal()
        highgain = options.highgain
        return stages(gain, highgain=highgain), stages(pedestal, highgain=highgain)

    def folded(
        self, options: CalibrationOptions, bad: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return (pedestal, scale): (adc - pedestal) * scale is the value, and the fill for `bad` pixels.

        RequestError where int32 cannot hold counts of the options' factor.
        """
        gain, pedestal = self.stages(options)
        factor = options.inner_factor
        scale = reciprocal(gain, factor)
        if factor is not None and options.counts:
            check_range(scale, pedestal, factor, ~bad)
        return np.where(bad, np.float32(0), pedestal), np.where(bad, np.float32(options.inner_fill), scale)

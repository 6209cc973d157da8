"""The maps of one detector, checked, and what they become under given options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConstantsMissing
from ..wire.detector_name import MODULE_SHAPE, DetectorName
from . import constants
from .options import CalibrationOptions
from .pixel_mask import BAD_CONSTANT, as_reasons, is_bad


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
            None if gain is None else constants.as_planes("gain", gain, detector_name, (4, 6)),
            None if pedestal is None else constants.as_planes("pedestal", pedestal, detector_name, (3, 4)),
            None if mask is None else as_reasons(mask, DetectorName.parse(detector_name).raw_shape),
            source,
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all three."""
        return constants.digest(self.gain, self.pedestal, self.reasons)

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
        """Refuse gains of 0 and the like on pixels in use, or give them a reason to be masked.

        Raises
        ------
        BadConstant
            A pixel in use has no usable constant, and is not to be masked.
        """
        modules = np.zeros(DetectorName.parse(self.detector_name).n_modules, dtype=bool)
        modules[list(options.active_modules(self.detector_name))] = True
        gain, pedestal = self.stages(options)
        unusable = constants.unusable(gain, pedestal) & ~self.bad(options)
        unusable &= np.repeat(modules, MODULE_SHAPE[0])[:, None]
        if not unusable.any():
            return self
        if options.bad_constants == "raise" or options.mask is False:
            of = self.detector_name + self.source
            constants.refuse(unusable, *self._gain_and_pedestal(), options.highgain, of)
        reasons = np.zeros(unusable.shape, dtype=np.int64) if self.reasons is None else self.reasons
        reasons = reasons | np.where(unusable, BAD_CONSTANT, 0)
        return Maps(self.detector_name, self.gain, self.pedestal, reasons, self.source)

    def stages(self, options: CalibrationOptions) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return gain and pedestal planes for the three gain stages in use."""
        gain, pedestal = self._gain_and_pedestal()
        highgain = options.highgain
        return constants.stages(gain, highgain=highgain), constants.stages(pedestal, highgain=highgain)

    def folded(
        self, options: CalibrationOptions, bad: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return (pedestal, scale): (adc - pedestal) * scale is the value, and the fill for bad pixels.

        Parameters
        ----------
        options : CalibrationOptions
            Whose `factor` counts.
        bad : ndarray of bool, shape (512 n, 1024)
            Masked pixels.

        Raises
        ------
        RequestError
            int32 cannot hold counts of this factor.
        """
        gain, pedestal = self.stages(options)
        factor = options.inner_factor
        scale = constants.reciprocal(gain, factor)
        if factor is not None and options.counts:
            constants.check_range(scale, pedestal, factor, ~bad)
        return np.where(bad, np.float32(0), pedestal), np.where(bad, np.float32(options.inner_fill), scale)

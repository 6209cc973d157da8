"""Pedestals from dark frames, evaluated as the facility does (wire reference jungfrau, section 8.3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import DtypeError, RequestError, ShapeError
from ..wire.detector_name import MODULE_SHAPE, STAGE_CODES, DaqRec, DetectorName
from .raw_pixels import ADC_BITS, CODE_SHIFT

WINDOW = 1000
"""Frames of a stage after which older ones fade."""

_WRONG_GAIN, _HIGH_GAIN, _CONSTANT = 1, 4, 9  # mask bits 1 + code + 4 in high gain, and 9 + code


class PedestalEvaluation:
    """Running mean and spread of dark frames in three gain stages, and the pixels that misbehave.

    A frame counts for the stage its `daq_rec` demands. It is left out if its modules disagree on that, or if
    fewer pixels show the demanded stage than the detector has, less half a module and those given as bad.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``.
    n_bad_modules : int
        Modules that need not follow.

    Attributes
    ----------
    n_frames : list of int
        Frames that counted, of G0, G1, G2.
    n_skipped : int
        Frames that did not.

    Examples
    --------
    >>> import numpy as np
    >>> evaluation = PedestalEvaluation("JF03T01V02")
    >>> evaluation.add(np.full((512, 1024), 2900, dtype="uint16"), daq_rec=0)
    True
    >>> evaluation.n_frames, float(evaluation.mean[0, 0, 0])
    ([1, 0, 0], 2900.0)
    """

    def __init__(self, detector_name: str, *, n_bad_modules: int = 0):
        name = DetectorName.parse(detector_name)
        if not 0 <= n_bad_modules < name.n_modules:
            raise RequestError(
                "n_bad_modules", n_bad_modules, f"0 to {name.n_modules - 1} of {detector_name}"
            )
        self.detector_name = detector_name
        self._shape = name.raw_shape
        self._needed = (name.n_modules - 0.5 - n_bad_modules) * MODULE_SHAPE[0] * MODULE_SHAPE[1]
        self._sum = np.zeros((3, *self._shape))
        self._squares = np.zeros((3, *self._shape))
        self._reasons = np.zeros(self._shape, dtype=np.int64)
        self.n_frames = [0, 0, 0]
        self.n_skipped = 0

    def add(self, raw: npt.NDArray[np.uint16], daq_rec: npt.ArrayLike, *, is_good: bool = True) -> bool:
        """Take one frame; tell whether it counted.

        Parameters
        ----------
        raw : ndarray of uint16, shape (512 n, 1024)
            Raw words.
        daq_rec : int, or one per module
            DAQ word: its bits 12 and 13 demand the stage.
        is_good : bool
            What the source says of the frame; bad ones do not count.

        Raises
        ------
        DtypeError, ShapeError
            Not a raw image of this detector.
        """
        if raw.dtype != np.uint16:
            raise DtypeError(f"dark frame of {self.detector_name}: found {raw.dtype}, expected uint16")
        if raw.shape != self._shape:
            raise ShapeError(
                f"dark frame of {self.detector_name}: found shape {raw.shape}, expected {self._shape}"
            )
        words = {int(word) for word in np.ravel(daq_rec)}
        demanded = {(word >> 12) & 3 for word in words}
        wrong = None
        if is_good and len(demanded) == 1 and (code := demanded.pop()) in STAGE_CODES:
            wrong = raw >> CODE_SHIFT != code
        if wrong is None or wrong.size - np.count_nonzero(wrong) < self._needed:
            self.n_skipped += 1
            return False
        high_gain = _HIGH_GAIN * DaqRec.decode(min(words)).high_gain
        self._reasons[wrong] |= 1 << (_WRONG_GAIN + code + high_gain)
        self._count(STAGE_CODES.index(code), (raw & ADC_BITS).astype(np.float64))
        return True

    def _count(self, stage: int, adc: npt.NDArray[np.float64]) -> None:
        if self.n_frames[stage] >= WINDOW:
            self._sum[stage] -= self._sum[stage] / WINDOW
            self._squares[stage] -= self._squares[stage] / WINDOW
        self._sum[stage] += adc
        self._squares[stage] += adc * adc
        self.n_frames[stage] += 1

    @property
    def _weights(self) -> npt.NDArray[np.float64]:
        return np.clip(self.n_frames, 1, WINDOW).astype(np.float64)[:, None, None]

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Mean ADU of G0, G1, G2, float64, shape (3, 512 n, 1024); 0 for a stage without frames."""
        return self._sum / self._weights

    @property
    def rms(self) -> npt.NDArray[np.float64]:
        """Standard deviation, ADU, float64, same shape."""
        variance = self._squares / self._weights - self.mean**2
        return np.sqrt(np.maximum(variance, 0))

    @property
    def pixel_mask(self) -> npt.NDArray[np.int64]:
        """Reason bits, int64, shape (512 n, 1024): a wrong gain was shown, or the ADC did not move."""
        reasons = self._reasons.copy()
        for code, rms in zip(STAGE_CODES, self.rms):
            reasons[rms == 0] |= 1 << (_CONSTANT + code)
        return reasons

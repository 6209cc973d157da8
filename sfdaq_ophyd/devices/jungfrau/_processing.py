"""From a frame of the stream to a frame of the device: raw or calibrated, with its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...calibration import JungfrauCalibration
from ...calibration.raw_pixels import ADC_BITS, CODE_SHIFT, LOST, WordCounts, count_words
from ...clients import StreamFrame
from ...clients.ring import Ring
from ...errors import DetectorStateError
from ...wire.detector_name import MODULE_SHAPE, DaqRec
from ...wire.frame import Frame, FrameFormat
from .._store import NO_PULSE_ID

_RAW = {"frame_number": "i8", "daq_rec": "i8", "total": "f8"}
_COUNTS = {"n_saturated": "i8", "n_undefined_gain": "i8", "n_lost_pixels": "i8"}


class Processing(Protocol):
    """Makes frames of the device out of frames of the stream."""

    @property
    def unit(self) -> str:
        """Of a pixel: ``"ADU"``, ``"keV"`` or ``"photons"``."""

    @property
    def frame_format(self) -> FrameFormat:
        """What the frames look like."""

    def __call__(self, frame: StreamFrame) -> Frame:
        """Return the frame of the device."""


@dataclass(frozen=True)
class RawImages:
    """Hand raw words on as they are.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    """

    shape: tuple[int, int]
    unit = "ADU"

    @property
    def frame_format(self) -> FrameFormat:
        """What the frames look like."""
        return FrameFormat(self.shape, np.uint16, has_pulse_id=True, scalars=_RAW | _COUNTS)

    def __call__(self, frame: StreamFrame) -> Frame:
        """Return the frame with its numbers; `total` is in ADU without gain bits and lost pixels."""
        raw = _words(frame)
        words = count_words(raw)
        return _frame(
            frame, _pixels(frame), float(_sum_of_adu(raw, words)), _counts(words), lacks=_lacks(frame, raw)
        )


class CalibratedImages:
    """Calibrate every frame, with the constants of the gain mode it was taken in.

    Parameters
    ----------
    calibration : JungfrauCalibration
        Lost pixels count as masked, whatever its options say.
    photon_energy : float or None
        keV; then pixels are photons.
    raw_shape : (int, int), optional
        Hand the raw image on too, of this shape, as ``raw``.
    """

    def __init__(
        self,
        calibration: JungfrauCalibration,
        photon_energy: float | None = None,
        raw_shape: tuple[int, int] | None = None,
    ):
        changes = {} if photon_energy is None else {"factor": photon_energy}
        calibration = calibration.with_options(mask_lost_packets=True, **changes)
        self.unit = calibration.unit if photon_energy is None else "photons"
        self._calibrations = {calibration.options.highgain: calibration}
        self._first = calibration
        self._more = {} if raw_shape is None else {"raw": (raw_shape, np.dtype("u2"))}
        self._ring = Ring(calibration.shape, calibration.dtype)

    @property
    def frame_format(self) -> FrameFormat:
        """What the frames look like."""
        shape, dtype, scalars = self._first.shape, self._first.dtype, _RAW | _COUNTS
        return FrameFormat(shape, dtype, has_pulse_id=True, scalars=scalars, more_images=self._more)

    def __call__(self, frame: StreamFrame) -> Frame:
        """Return the calibrated frame; `total` is in the unit of its pixels."""
        raw = _words(frame)
        high_gain = frame.daq_rec is not None and DaqRec.decode(frame.daq_rec).high_gain
        out = self._ring.take()
        image = self._calibration(high_gain)(raw, out=out)
        words = count_words(raw, highgain=high_gain)
        more = {"raw": _pixels(frame)} if self._more else {}
        return _frame(frame, image, _sum(image), _counts(words), more, lacks=_lacks(frame, raw))

    def _calibration(self, high_gain: bool) -> JungfrauCalibration:
        if high_gain not in self._calibrations:
            self._calibrations[high_gain] = self._first.with_options(highgain=high_gain)
        return self._calibrations[high_gain]


@dataclass(frozen=True)
class ConvertedImages:
    """Hand images on that were converted to keV before they came.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    """

    shape: tuple[int, int]
    unit = "keV"

    @property
    def frame_format(self) -> FrameFormat:
        """What the frames look like."""
        return FrameFormat(self.shape, np.float32, has_pulse_id=True, scalars=_RAW)

    def __call__(self, frame: StreamFrame) -> Frame:
        """Return the frame; `total` is in keV."""
        image = _pixels(frame)
        return _frame(frame, image, _sum(image), {}, lacks=_lacks(frame, None))


def _sum(image: np.ndarray) -> float:
    """Sum all pixels that are numbers: rows in the image's own precision, which is quick, then in float64."""
    total = float(image.sum(axis=1).sum(dtype=np.float64))
    return total if np.isfinite(total) else float(np.nansum(image, dtype=np.float64))


def _pixels(frame: StreamFrame) -> np.ndarray:
    """Return the image as it came, shape (y, x)."""
    assert frame.image is not None  # a stream's frames bring their pixels
    return frame.image


def _words(frame: StreamFrame) -> np.ndarray:
    """Return the raw words, in which lost packets are 0xFFFF wherever the frame came from."""
    image = _pixels(frame)
    if image.dtype != np.uint16:
        found = f"frame number {frame.frame_number} is {image.dtype}"
        raise DetectorStateError(f"{found}, expected raw uint16: is the stream converted already?")
    return frame.words


def _sum_of_adu(raw: np.ndarray, words: WordCounts) -> int:
    """Sum the ADU of all pixels that were not lost: all words, less what their gain bits count."""
    total = int(raw.sum(axis=0, dtype=np.uint32).sum(dtype=np.int64))
    gain_bits = words.n_g1 + 2 * words.n_undefined_gain + 3 * words.n_g2
    return total - (gain_bits << CODE_SHIFT) - words.n_lost * ADC_BITS


def _counts(words: WordCounts) -> dict[str, int]:
    return {
        "n_saturated": words.n_saturated,
        "n_undefined_gain": words.n_undefined_gain,
        "n_lost_pixels": words.n_lost,
    }


def _lacks(frame: StreamFrame, raw: np.ndarray | None) -> str:
    """Return what of an image is not there at all; the assembled stream says only that it is not good."""
    if frame.is_good or frame.lacks or frame.missing or frame.incomplete:
        return frame.lacks
    if raw is None:
        return "what the stream does not say"
    lost = [bool((block == LOST).all()) for block in raw.reshape(-1, *MODULE_SHAPE)]
    if any(lost):
        return f"block {', '.join(str(k) for k, all_lost in enumerate(lost) if all_lost)} of {len(lost)}"
    # With no packet lost, a module is of another frame.
    return "" if (raw == LOST).any() else "modules of one frame"


def _frame(
    frame: StreamFrame,
    image: np.ndarray,
    total: float,
    counts: dict[str, int],
    more: dict | None = None,
    *,
    lacks: str,
) -> Frame:
    return Frame(
        image=image,
        more_images=more or {},
        timestamp=frame.timestamp,
        event_id=frame.event_id,
        pulse_id=NO_PULSE_ID if frame.pulse_id is None else frame.pulse_id,
        is_good=frame.is_good,
        lacks=lacks,
        scalars={
            "frame_number": frame.frame_number,
            "daq_rec": -1 if frame.daq_rec is None else frame.daq_rec,
            "total": total,
            **counts,
        },
    )

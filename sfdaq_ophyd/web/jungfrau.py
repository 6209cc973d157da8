"""The newest image of a Jungfrau, through a subscription of the page's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..calibration import JungfrauCalibration
from ..calibration.raw_pixels import ADC_BITS, LOST, PACKET_WORDS, saturated_word
from ..clients import ImageStream, ModuleStream, StreamFrame
from ..clients.frame_numbers import FrameNumbers
from ..limits import Limit
from ..wire.detector_name import GainMode
from .live_frame import LiveFrame
from .source import DetectorSource, Rate

CONNECTS_WITHIN = 2.0
"""s after which a stream that is not connected is called so."""

SILENT_AFTER = 5.0
"""s without any message after which a detector is called silent."""

MOST_CALIBRATIONS = 4
"""Gain modes and module maps whose constants are kept."""


class JungfrauSource(DetectorSource):
    """Watch a Jungfrau: all of the stream is counted, now and then one image is drawn.

    Parameters
    ----------
    load : callable, optional
        Returns the `JungfrauCalibration`; called once. If it fails, the page shows raw words and says why.
    period : float
        s between two images, at least.
    frame_step : int, optional
        As of the device: frame numbers grow by this, a jump is a lost frame; 0: jumps mean nothing.
    by_frame : bool
        Event ids are frame numbers, as of the device.
    """

    def __init__(
        self,
        name: str,
        detector_name: str,
        endpoints: Sequence[str],
        *,
        stream: str = "modules",
        load: Callable[[], JungfrauCalibration] | None = None,
        period: float = 0.25,
        frame_step: int | None = None,
        by_frame: bool = False,
    ):
        super().__init__(name, f"Jungfrau {detector_name}", ", ".join(endpoints), period)
        self._stream: ModuleStream | ImageStream
        if stream == "modules":
            self._stream = ModuleStream(endpoints, detector_name=detector_name, n_images=8)
        else:
            self._stream = ImageStream(endpoints[0], detector_name=detector_name, n_images=8)
        self._stream.subscribe(self._keep)
        self._frame_step = int(stream == "modules") if frame_step is None else frame_step
        self._by_frame, self._n_jumped = by_frame, 0
        self._numbers: FrameNumbers | None = None
        self._load, self._note = load, ""
        self._calibrations: dict[tuple, JungfrauCalibration] = {}  # by high gain or not, and module map
        self._mode = GainMode()
        self._newest: StreamFrame | None = None
        self._rate = Rate()
        self._is_open = False
        self._connecting, self._silence, self._n_messages = Limit(CONNECTS_WITHIN), Limit(SILENT_AFTER), 0

    def take(self) -> tuple[LiveFrame | None, dict[str, Any]]:
        """Draw the newest image that has come, if any."""
        if not self._is_open:
            self._stream.open()
            self._is_open, self._n_messages = True, 0
            self._connecting.restart()
            self._silence.restart()
        self._calibrate()
        counters = {name: count for name, count in dict(self._stream.counters).items() if count}
        rate = self._rate.update(counters.get("complete", 0) + counters.get("incomplete", 0))
        level, note = self._condition(sum(counters.values()))
        about = {
            "state": f"{sum(self._stream.connected)} of {len(self._stream.endpoints)} streams",
            "rate": rate,
            "counters": counters,
            "level": level,
            "note": "; ".join(filter(None, (note, self._note or self._stream.last_problem))),
        }
        newest, self._newest = self._newest, None
        return None if newest is None else self._frame(newest), about

    def rest(self) -> None:
        """End the subscription: the detector sends nothing here."""
        if self._is_open:
            self._stream.close()
        self._is_open, self._newest, self._numbers, self._rate = False, None, None, Rate()

    def _keep(self, frame: StreamFrame | None) -> None:
        if frame is None:
            return
        self._newest = frame
        if self._frame_step:
            self._numbers = self._numbers or FrameNumbers(self._frame_step)
            lost = self._numbers.lost_before(frame)
            self._n_jumped += max(0, (lost.stop - lost.start) // lost.step)  # too many for len(), perhaps

    def n_lost(self, counters: Mapping[str, int]) -> int:
        """Return how many frames came in parts or, by their numbers, not at all."""
        return counters.get("incomplete", 0) + self._n_jumped

    def _condition(self, n_messages: int) -> tuple[str, str]:
        """Return level and words: red if nothing is connected, or if all are silent."""
        connected, n = sum(self._stream.connected), len(self._stream.endpoints)
        if connected:
            self._connecting.restart()
        if n_messages != self._n_messages:
            self._silence.restart()
        self._n_messages = n_messages
        if not connected:
            return ("bad", f"none of {n} streams answers") if self._connecting.reached() else ("busy", "")
        if self._silence.reached():
            return "bad", f"none of {n} streams sends anything"
        if connected < n:
            return "busy", f"{n - connected} of {n} streams do not answer"
        return ("good" if self._n_messages else "busy"), ""

    def _calibrate(self) -> None:
        load, self._load = self._load, None
        if load is None:
            return
        try:
            calibration = load().with_options(mask_lost_packets=True, roi=None, downsample=None)
            self._calibrations = {(calibration.options.highgain, calibration.module_map): calibration}
            self._mode = GainMode(calibration.options.highgain)
        except Exception as exc:  # files of any kind and state
            self._note = f"raw, since the constants cannot be read: {exc}"

    def _calibration(self, high_gain: bool, module_map: object) -> JungfrauCalibration:
        """Return the one for a gain mode and the modules that an image says it has."""
        first = next(iter(self._calibrations.values()))
        modules = first.module_map
        if isinstance(module_map, list) and all(type(place) is int for place in module_map):
            modules = tuple(module_map)
        key = high_gain, modules
        if key not in self._calibrations:
            if len(self._calibrations) > MOST_CALIBRATIONS:
                self._calibrations.popitem()
            self._calibrations[key] = first.with_options(highgain=high_gain, module_map=modules)
        return self._calibrations[key]

    def _frame(self, found: StreamFrame) -> LiveFrame:
        self.n_taken += 1
        assert found.image is not None, "frames of a stream have their pixels"
        raw = found.words if found.image.dtype == np.uint16 else found.image
        high_gain = self._mode.of(found.daq_rec)
        if self._calibrations and raw.dtype == np.uint16:
            calibration = self._calibration(high_gain, found.extra.get("module_map"))
            image = calibration(raw)
            bad = ~calibration.pixel_mask | ~np.isfinite(image) | calibration.lost_pixels(raw)
            saturated = np.zeros(image.shape, bool)
            saturated[calibration.saturated_pixels(raw)] = True
            unit = calibration.unit
        elif raw.dtype == np.uint16:
            image, bad, saturated = raw & ADC_BITS, raw == LOST, raw == saturated_word(high_gain)
            unit = "ADU, raw"
        else:  # calibrated by the sender
            image, bad, saturated = raw.copy(), ~np.isfinite(raw), np.zeros(raw.shape, bool)
            if not found.is_good and raw.size % PACKET_WORDS == 0:  # lost packets are nothing but zeros
                bad |= np.repeat(~raw.reshape(-1, PACKET_WORDS).any(axis=1), PACKET_WORDS).reshape(raw.shape)
            unit = "as sent"
        return LiveFrame(
            number=self.n_taken,
            image=image,
            bad=bad,
            saturated=saturated & ~bad,
            unit=unit,
            event_id=found.om_event_id if self._by_frame else found.event_id,
            pulse_id=found.pulse_id,
            timestamp=found.timestamp,
            is_good=bool(found.is_good),
            arrived=found.received or time.monotonic(),
        )

"""The newest image of a Jungfrau, through a subscription of the page's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..calibration import JungfrauCalibration
from ..calibration.words import ADC_BITS, LOST
from ..clients import ImageStream, ModuleStream, StreamFrame
from ..wire.daq_rec import DaqRec
from .detector_source import DetectorSource
from .live_frame import LiveFrame
from .source import Rate

SATURATED = 0xC000
"""Raw word of a pixel that is over the top of G2."""


class JungfrauSource(DetectorSource):
    """Watch a Jungfrau: all of the stream is counted, now and then one image is drawn.

    Parameters
    ----------
    name, detector_name : str
    endpoints : sequence of str
    stream : {"modules", "assembled"}
    load : callable, optional
        Returns the `JungfrauCalibration`; called once. If it fails, the page shows raw words and says why.
    period : float
        s between two images, at least.
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
    ):
        super().__init__(name, f"Jungfrau {detector_name}", ", ".join(endpoints), period)
        if stream == "modules":
            self._stream = ModuleStream(endpoints, detector_name=detector_name, n_images=8)
        else:
            self._stream = ImageStream(endpoints[0], n_images=8)
        self._stream.subscribe(self._keep)
        self._load, self._note = load, ""
        self._calibrations: dict[bool, JungfrauCalibration] = {}  # by whether high gain is on
        self._newest: StreamFrame | None = None
        self._rate = Rate()
        self._is_open = False

    def take(self) -> tuple[LiveFrame | None, dict[str, Any]]:
        """Draw the newest image that has come, if any."""
        if not self._is_open:
            self._stream.open()
            self._is_open = True
        if self._load is not None:
            self._calibrate()
        counters = {name: count for name, count in dict(self._stream.counters).items() if count}
        rate = self._rate.update(counters.get("complete", 0) + counters.get("incomplete", 0))
        connected = sum(self._stream.connected)
        about = {
            "state": f"{connected} of {len(self._stream.endpoints)} streams",
            "rate": rate,
            "counters": counters,
            "note": self._note or self._stream.last_problem,
        }
        newest, self._newest = self._newest, None
        return None if newest is None else self._frame(newest), about

    def rest(self) -> None:
        """End the subscription: the detector sends nothing here."""
        if self._is_open:
            self._stream.close()
        self._is_open, self._newest, self._rate = False, None, Rate()

    def _keep(self, frame: StreamFrame | None) -> None:
        if frame is not None:
            self._newest = frame

    def _calibrate(self) -> None:
        load, self._load = self._load, None
        try:
            calibration = load().with_options(mask_lost_packets=True)
            self._calibrations = {calibration.options.highgain: calibration}
        except Exception as exc:  # files of any kind and state
            self._note = f"raw, since the constants cannot be read: {exc}"

    def _calibration(self, found: StreamFrame) -> JungfrauCalibration:
        first = next(iter(self._calibrations.values()))
        high_gain = found.daq_rec is not None and DaqRec.decode(found.daq_rec).high_gain
        if high_gain not in self._calibrations:
            self._calibrations[high_gain] = first.with_options(highgain=high_gain)
        return self._calibrations[high_gain]

    def _frame(self, found: StreamFrame) -> LiveFrame:
        self.n_taken += 1
        raw = found.words if found.image.dtype == np.uint16 else found.image
        if self._calibrations and raw.dtype == np.uint16:
            calibration = self._calibration(found)
            image = calibration(raw)
            bad = ~calibration.pixel_mask | ~np.isfinite(image) | calibration.lost_pixels(raw)
            saturated = np.zeros(image.shape, bool)
            saturated[calibration.saturated_pixels(raw)] = True
            unit = calibration.unit
        elif raw.dtype == np.uint16:
            image, bad, saturated = raw & ADC_BITS, raw == LOST, raw == SATURATED
            unit = "ADU, raw"
        else:  # calibrated by the sender
            image, bad, saturated = raw.copy(), ~np.isfinite(raw), np.zeros(raw.shape, bool)
            unit = "as sent"
        return LiveFrame(
            number=self.n_taken,
            image=image,
            bad=bad,
            saturated=saturated & ~bad,
            unit=unit,
            event_id=found.event_id,
            pulse_id=found.pulse_id,
            timestamp=found.timestamp,
            is_good=bool(found.is_good),
        )

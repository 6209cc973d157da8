"""The newest image of an Eiger, through the monitor's ``images/monitor``: nothing is taken from anybody.

Of one that is read out by its stream, the stream's state, rate and losses are shown as HTTP tells them: a
client of the stream would take every other frame.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..clients import SimplonClient
from ..errors import ServiceRefused
from ..wire.simplon import DetectorState, invalid_pixels
from .live_frame import Geometry, LiveFrame
from .source import DetectorSource, Rate

STATE_PERIOD = 0.5
"""s between two looks at the state: SIMPLON servers do not like to be asked often."""

IDLE_PERIOD = 2.0
"""s between two images of a detector that looks idle: a short series fits between two looks at its state."""

DROPPED = "dropped by the monitor"
DROPPED_BY_STREAM = "dropped by the stream"
RUNNING = (DetectorState.READY, DetectorState.ACQUIRE)


class EigerSource(DetectorSource):
    """Watch an Eiger.

    A detector that takes no series is asked for its state, and for an image every `IDLE_PERIOD`.
    """

    def __init__(
        self,
        name: str,
        url: str,
        api_version: str | None = None,
        period: float = 0.25,
        streams: bool = False,
    ):
        super().__init__(name, "Eiger", url, period)
        self._streams = streams
        self.loss_name = DROPPED_BY_STREAM if streams else DROPPED
        self._client = SimplonClient(url, api_version, timeout=5.0)
        self._rate = Rate()
        self._about: dict[str, Any] = {}
        self._state: DetectorState | None = None
        self._state_due = self._settings_due = self._image_due = 0.0
        self._ids: tuple | None = None
        self._geometry: Geometry | None = None
        self._cutoff: int | None = None
        self._mask: np.ndarray | None = None
        self._arrivals_are_known = False  # what is found at the first look may have lain there for hours

    def take(self) -> tuple[LiveFrame | None, dict[str, Any]]:
        """Ask for the newest image: as fast as allowed while the detector runs, seldom when it does not."""
        try:
            return self._take()
        except Exception:
            self._arrivals_are_known = False  # what is found at the next look came during the outage
            raise

    def _take(self) -> tuple[LiveFrame | None, dict[str, Any]]:
        now = time.monotonic()
        if now >= self._state_due:
            if self._state not in RUNNING:  # it may have been configured since the last look
                self._settings_due = now
            self._state = self._client.state()
            self._state_due = now + STATE_PERIOD
            rate = self._rate.value if self._state in RUNNING and not self._is_overdue() else None
            level = "bad" if self._state is DetectorState.ERROR else "good"
            counters = self._counters()
            self._about = {"state": self._state.value, "counters": counters, "rate": rate, "level": level}
            if self._streams:
                self._about |= self._look_at_stream(rate)
        if now < self._image_due:
            return None, self._about
        self._image_due = now if self._state in RUNNING else now + IDLE_PERIOD
        if self._streams and self._optional("mode", "monitor") == "disabled":
            self._rate = Rate()
            return None, self._about
        found = self._client.newest_image(wait=0.1)
        known, self._arrivals_are_known = self._arrivals_are_known, True
        if found is None:
            return None, self._about
        ids = (found.series_id, found.image_id, found.time_ns)
        if self._is_known(found):
            return None, self._about
        if self._ids is None or ids[0] != self._ids[0] or now >= self._settings_due:
            self._read_settings()
            self._settings_due = now + 10
        if self._ids is None or ids[0] != self._ids[0] or not known:
            self._rate = Rate()
        self._ids = ids
        if found.image_id is not None:
            self._about = {**self._about, "rate": self._rate.update(found.image_id)}
        return self._frame(found, now if known else None), self._about

    def _is_overdue(self) -> bool:
        """Tell whether the frames have stopped, or nothing is known of when they came."""
        age, old_after = self.frame_age().values()
        return age is None or old_after is None or age > old_after

    def n_lost(self, counters: Mapping[str, int]) -> int | None:
        """Return what the monitor dropped, if the detector says so."""
        return counters.get(self.loss_name)

    def rest(self) -> None:
        """Close the connections."""
        self._client.close()
        self._arrivals_are_known = False
        self._state_due = self._image_due = 0.0

    def _is_known(self, found) -> bool:
        if found.series_id is not None:
            return (found.series_id, found.image_id, found.time_ns) == self._ids  # series count anew at times
        return self.frame is not None and np.array_equal(found.image, self.frame.image)  # API 1.6 has no ids

    def _frame(self, found, arrived: float | None = None) -> LiveFrame:
        self.n_taken += 1
        image = found.image
        fits = self._mask is not None and self._mask.shape == image.shape
        bad = invalid_pixels(image, self._mask if fits else None)
        above = self._cutoff is not None and self._cutoff < np.iinfo(image.dtype).max
        saturated = (image > self._cutoff) & ~bad if above else np.zeros(image.shape, bool)
        has_ids = found.series_id is not None
        return LiveFrame(
            number=self.n_taken,
            image=image,
            bad=bad,
            saturated=saturated,
            unit="counts",
            event_id=found.event_id if has_ids else "",
            timestamp=found.timestamp,
            geometry=self._geometry,
            arrived=arrived,
        )

    def _counters(self) -> dict[str, int]:
        value = self._optional("dropped", "stream" if self._streams else "monitor", "status")
        return {} if value is None else {self.loss_name: int(value)}

    def _look_at_stream(self, rate: float | None) -> dict[str, Any]:
        """Say how the stream is; its rate is the monitor's, else that of the frame time while it exposes."""
        state, note = self._optional("state", "stream", "status"), ""
        if rate is None and self._state is DetectorState.ACQUIRE and state != "disabled":
            frame_time = self._optional("frame_time")
            rate, note = (round(1 / frame_time, 2), ", rate as configured") if frame_time else (None, "")
        about: dict[str, Any] = {"rate": rate, "note": f"stream: {state or 'not known'}{note}"}
        return about | ({"level": "bad"} if state == "error" else {})

    def _read_settings(self) -> None:
        self._cutoff = self._optional("countrate_correction_count_cutoff")
        names = ("beam_center_x", "beam_center_y", "detector_distance", "x_pixel_size", "wavelength")
        x, y, *rest = (self._optional(name) for name in names)
        self._mask = None
        if self._optional("pixel_mask_applied") is False:  # then the image shows masked pixels like good ones
            self._mask = self._client.get_array("pixel_mask")
        self._geometry = None
        if None not in (x, y, *rest):
            geometry = Geometry((float(x), float(y)), *map(float, rest))
            self._geometry = geometry if geometry.is_known else None

    def _optional(self, name: str, module: str = "detector", task: str = "config"):
        try:
            return self._client.get(module, task, name).value
        except ServiceRefused:
            return None

"""Everything the page watches, and who watches the page."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import RequestError
from .curve import Curve
from .live_frame import LiveFrame
from .runs import RunsSource
from .source import DetectorSource, Source

GROUPS = ("detectors", "pulse_ids", "pvs", "writers", "brokers", "runs")
LIFETIME = 0.1
"""s for which one text of the state serves all viewers."""


class Watch:
    """The sources of one page. While nobody views it, nothing is asked of anybody.

    Parameters
    ----------
    sources : sequence of Source
        With different names in each group.
    title : str
        E.g. the beamline and the pgroup.
    """

    def __init__(self, sources: Sequence[Source], title: str = ""):
        self.sources, self.title = list(sources), title
        self.n_viewers = 0
        self._watched, self._lock = threading.Event(), threading.Lock()
        self._text, self._text_until = "", 0.0
        self._minutes, self._minutes_until = "", 0.0

    def start(self) -> None:
        """Start the sources; they rest until somebody views the page."""
        for source in self.sources:
            source.start(self._watched)

    def stop(self) -> None:
        """End the sources. Safe twice."""
        for source in self.sources:
            source.end()  # all at once, then wait for each
        for source in self.sources:
            source.stop()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.stop()

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Count one more viewer."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def state(self) -> dict[str, Any]:
        """Return everything the page shows; ready for JSON."""
        shown: dict[str, Any] = {"title": self.title, "time": time.time(), "n_viewers": self.n_viewers}
        for group in GROUPS:
            shown[group] = [source.state() for source in self.sources if source.group == group]
        return shown

    def state_text(self) -> str:
        """Return `state` as JSON, made once for all viewers."""
        with self._lock:
            if time.monotonic() > self._text_until:
                self._text = json.dumps(self.state(), default=str)
                self._text_until = time.monotonic() + LIFETIME
            return self._text

    def minutes_text(self) -> str:
        """Return frame rate and loss rate of the last minutes as JSON, made once for all viewers."""
        with self._lock:
            if time.monotonic() > self._minutes_until:
                self._minutes = json.dumps({"minutes": {d.name: list(d.history) for d in self._detectors}})
                self._minutes_until = time.monotonic() + LIFETIME
            return self._minutes

    def curves(self) -> list[Curve]:
        """Return the scans that go on and the last ones, newest first."""
        return [curve for source in self.sources if isinstance(source, RunsSource) for curve in source.curves]

    def detector(self, name: str) -> DetectorSource:
        """Return a detector by its name.

        Raises
        ------
        RequestError
            There is none of this name.
        """
        found = {detector.name: detector for detector in self._detectors}
        if name not in found:
            raise RequestError("detector", name, f"one of {', '.join(found) or 'none'}")
        return found[name]

    def frame(self, name: str) -> LiveFrame | None:
        """Return the newest frame of a detector, None before the first; raises as `detector`."""
        return self.detector(name).frame

    @property
    def _detectors(self) -> list[DetectorSource]:
        return [source for source in self.sources if isinstance(source, DetectorSource)]

    def _count(self, change: int) -> None:
        with self._lock:
            self.n_viewers += change
            self._text_until = 0.0
            (self._watched.set if self.n_viewers else self._watched.clear)()

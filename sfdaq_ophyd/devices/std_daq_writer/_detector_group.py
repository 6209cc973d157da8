"""Detectors that take their frames while the writer is open: one device for the plan, several inside."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from ...errors import Discarded, RequestError, ServiceTimeout
from ...limits import Limit
from .._detector import Detector
from .._pulse_window import NextWindow, PulseWindow

LOOK = 0.05
"""s between two looks whether a wait was given up."""


class DetectorGroup:
    """The verbs of several detectors, forwarded.

    Parameters
    ----------
    detectors : sequence of Device
        Triggered once the writer takes images; its point is done when theirs are. For fly scans those of this
        package, which are kicked off then.
    """

    def __init__(self, detectors: Sequence):
        names = [detector.name for detector in detectors]
        if len(set(names)) < len(names):
            raise RequestError("detectors", names, "detectors of different names")
        self.detectors = tuple(detectors)
        self._statuses: list = []
        self._flying = False

    def each(self, verb: str) -> None:
        """Call a verb of all that have it; all are called, then the first problem is raised."""
        problems = []
        for detector in self.detectors:
            try:
                getattr(detector, verb, lambda: None)()
            except Exception as exc:
                problems.append(exc)
        if problems:
            raise problems[0]

    def merged(self, verb: str) -> OrderedDict:
        """Return the dictionaries of all, joined."""
        joined = OrderedDict()
        for detector in self.detectors:
            joined.update(getattr(detector, verb)())
        return joined

    def trigger(self) -> None:
        """Trigger all; what is left of an earlier attempt is given up before."""
        if not all(status.done for status in self._statuses):
            self.each("pause")
        self._statuses = [detector.trigger() for detector in self.detectors]

    def join_window(self, window: PulseWindow) -> bool:
        """Have those that count pulses join a window; return whether there are any."""
        aware = [d for d in self.detectors if isinstance(getattr(d, "next_window", None), NextWindow)]
        for detector in aware:
            detector.next_window.set(window)
        return bool(aware)

    def forget(self) -> None:
        """Wait for none of them any more."""
        self._statuses, self._flying = [], False

    @property
    def done(self) -> bool | None:
        """Whether all that were triggered have their frames; None if none were."""
        return all(status.done and status.success for status in self._statuses) if self._statuses else None

    def wait(self, timeout: float, given_up: threading.Event) -> None:
        """Wait until all are done, `timeout` s from step to step; raise what failed, or `Discarded`."""
        limit, seen = Limit(timeout), ""
        for detector, status in zip(self.detectors, self._statuses):
            while not status.done:
                if given_up.wait(LOOK):
                    raise Discarded(f"{detector.name}: given up with the writer around it")
                before, seen = seen, str(status)
                if seen != before:
                    limit.restart()
                elif limit.reached():
                    raise ServiceTimeout(f"{detector.name}, inside an open writer", timeout, seen)
            if not status.success:
                raise status.exception()

    def documents(self) -> Iterator[tuple[str, dict]]:
        """Yield the asset documents of all."""
        for detector in self.detectors:
            if hasattr(detector, "collect_asset_docs"):
                yield from detector.collect_asset_docs()

    # ---- fly scans ----------------------------------------------------------------------------------

    def prepare(self, n_points: int) -> None:
        """Make ready for a fly scan of `n_points` points."""
        for detector in self.detectors:
            if not isinstance(detector, Detector):
                raise RequestError("detectors", detector.name, "detectors of this package, for a fly scan")
            detector.prepare(n_points)

    def fly(self, timeout: float) -> None:
        """Kick off all, or let them go on after a pause; returns once they are armed."""
        if self._flying:
            self.each("resume")
            return
        started = [detector.kickoff() for detector in self.detectors]
        self._statuses, self._flying = [detector.complete() for detector in self.detectors], True
        for status in started:
            status.wait(timeout)

    def n_ready(self, n_points: int) -> int:
        """Return how many of `n_points` points all have on disk."""
        return min([n_points, *(detector.n_ready for detector in self.detectors)])

    def index(self, n_points: int) -> int:
        """Return how many of `n_points` points of the stream all have."""
        return min([n_points, *(detector.get_index() for detector in self.detectors)])

    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next `n_points` points of all."""
        for detector in self.detectors:
            yield from detector.collect_flown(n_points, in_file=in_file)

    def pages(self) -> list[dict]:
        """Return the partial event pages of the points `collect_flown` gave."""
        return [page for detector in self.detectors for page in detector.flown_pages()]

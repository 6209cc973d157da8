"""Detectors that take their frames while the writer is open: one device for the plan, several inside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ...errors import RequestError


class Companions:
    """The verbs of several detectors, forwarded.

    Parameters
    ----------
    detectors : sequence of Device
        Triggered once the writer takes images; its point is done when theirs are.
    """

    def __init__(self, detectors: Sequence):
        names = [detector.name for detector in detectors]
        if len(set(names)) < len(names):
            raise RequestError("detectors", names, "detectors of different names")
        self.detectors = tuple(detectors)
        self._statuses: list = []

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
        """Trigger all."""
        self._statuses = [detector.trigger() for detector in self.detectors]

    def forget(self) -> None:
        """Wait for none of them any more."""
        self._statuses = []

    def wait(self, timeout: float) -> None:
        """Wait until all are done; raise what failed."""
        for status in self._statuses:
            status.wait(timeout)

    def documents(self):
        """Yield the asset documents of all."""
        for detector in self.detectors:
            if hasattr(detector, "collect_asset_docs"):
                yield from detector.collect_asset_docs()

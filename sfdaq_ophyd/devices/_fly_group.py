"""Detectors that fly together, in one event stream, with their ids and numbers as rows of events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ophyd.status import StatusBase

from ..errors import RequestError
from ._detector import Detector
from ._status import JointStatus


class FlyGroup:
    """One flyer made of detectors: row k holds point k of each of them.

    Bluesky collects rows (ids, numbers) and images together only from one flyer that has no `get_index`; this
    is that flyer. The detectors are staged, paused and resumed by themselves.

    Parameters
    ----------
    detectors : sequence of Detector
        With different names.
    name : str, optional
        Default: the detectors' names joined by "+".
    """

    parent = None

    def __init__(self, detectors: Sequence[Detector], name: str = ""):
        names = [detector.name for detector in detectors]
        if not names or len(set(names)) < len(names):
            raise RequestError("detectors", names, "one or more detectors of different names")
        self.detectors = tuple(detectors)
        self.name = name or "+".join(names)
        self._completed: JointStatus | None = None

    def kickoff(self) -> StatusBase:
        """Start all; done when all are armed."""
        self._completed = None
        return JointStatus(self.name, [detector.kickoff() for detector in self.detectors])

    def complete(self) -> StatusBase:
        """Return the status of all, the same one each time; done when every frame is on disk."""
        if self._completed is None:
            self._completed = JointStatus(self.name, [detector.complete() for detector in self.detectors])
        return self._completed

    def describe_collect(self) -> dict:
        """Return the data keys of all."""
        return self._merged("describe_flown")

    def read_configuration(self) -> dict:
        """Return the configuration of all."""
        return self._merged("read_configuration")

    def describe_configuration(self) -> dict:
        """Describe the configuration of all."""
        return self._merged("describe_configuration")

    @property
    def hints(self) -> dict:
        """Return the hinted fields of all."""
        return {"fields": [field for detector in self.detectors for field in detector.hints["fields"]]}

    def collect_asset_docs(self) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the points that all have on disk."""
        n_points = min(detector.n_ready for detector in self.detectors)
        for detector in self.detectors:
            yield from detector.collect_flown(n_points)

    def collect_pages(self) -> Iterator[dict]:
        """Yield one partial event page with the rows of all."""
        yield from joined_page([page for detector in self.detectors for page in detector.flown_pages()])

    def _merged(self, verb: str) -> dict:
        return {key: value for detector in self.detectors for key, value in getattr(detector, verb)().items()}


def joined_page(pages: list[dict]) -> list[dict]:
    """Return one partial event page with the columns of all, in a list; an empty one if there are none."""
    if not pages:
        return []
    data = {key: column for page in pages for key, column in page["data"].items()}
    timestamps = {key: column for page in pages for key, column in page["timestamps"].items()}
    return [{"time": pages[0]["time"], "data": data, "timestamps": timestamps}]

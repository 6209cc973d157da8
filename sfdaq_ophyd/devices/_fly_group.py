"""Several detectors as one flyer, so that their points come as rows of one stream."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from ophyd.status import StatusBase
from ophyd.utils import InvalidState

from ..errors import RequestError
from ._flying import Flying
from ._status import ActionStatus


class JointStatus(StatusBase):
    """Done when all of several statuses are; failed as soon as one is, with that one's words.

    It has no deadline of its own: each part has one.

    Parameters
    ----------
    name : str
        What a progress bar calls it.
    parts : sequence of ActionStatus
        At least one.
    """

    def __init__(self, name: str, parts: Sequence[ActionStatus]):
        self.name, self._parts = name, tuple(parts)
        self._left = len(self._parts)
        self._guard = threading.Lock()
        super().__init__()
        for part in self._parts:
            part.add_callback(self._part_done)

    @property
    def timeout(self) -> float:
        """Time without progress after which its slowest part fails by itself, s."""
        return max(part.timeout for part in self._parts)

    def _part_done(self, part: ActionStatus) -> None:
        with self._guard:
            self._left -= 1
            last = self._left == 0
        with contextlib.suppress(InvalidState):
            if not part.success:
                self.set_exception(part.exception())
            elif last:
                self.set_finished()

    def watch(self, func: Callable) -> None:
        """Call `func` at each step of any part, with what it has in common: see `ActionStatus.watch`.

        Parameters
        ----------
        func : callable
            See `ActionStatus.watch`.
        """
        for part in self._parts:
            part.watch(lambda **kwargs: func(**(kwargs | self._sum())))

    def _sum(self) -> dict:
        current = sum(part.current for part in self._parts)
        target = sum(part.target for part in self._parts)
        return {"name": self.name, "current": current, "target": target, "fraction": 1 - current / target}

    def __str__(self) -> str:
        failed = [part for part in self._parts if part.done and not part.success]
        return "; ".join(str(part) for part in failed or self._parts)

    __repr__ = __str__


class FlyGroup:
    """One flyer made of detectors: row k holds point k of each of them.

    Bluesky collects rows (ids, numbers) and images together only from one flyer that has no `get_index`; this
    is that flyer. The detectors are staged, paused and resumed by themselves.

    Parameters
    ----------
    detectors : sequence of Flying
        Our detectors, and the broker; of different names.
    name : str, optional
        Default: the detectors' names joined by "+".
    """

    parent = None

    def __init__(self, detectors: Sequence[Flying], name: str = ""):
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
    """Join partial event pages of the same points.

    Parameters
    ----------
    pages : list of dict

    Returns
    -------
    list of dict
        One page with the columns of all; none of none.
    """
    if not pages:
        return []
    data = {key: column for page in pages for key, column in page["data"].items()}
    timestamps = {key: column for page in pages for key, column in page["timestamps"].items()}
    return [{"time": pages[0]["time"], "data": data, "timestamps": timestamps}]

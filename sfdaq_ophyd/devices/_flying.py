"""The verbs of a fly scan that all detectors have, the broker too: many points, collected while they come.

Bluesky's own stubs collect what is in files and nothing else: `describe_collect`, `get_index` and
`collect_asset_docs` give them images, ids and numbers as columns of a file. `FlyGroup`, for our `fly`, has
the ids and numbers as rows of events: `describe_flown`, `collect_flown` and `flown_pages`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from ophyd import Device
from ophyd.status import StatusBase
from ophyd.utils import InvalidState

from ..errors import DetectorStateError, Discarded, RequestError
from ._source import Request
from ._status import ActionStatus

logger = logging.getLogger(__name__)

OUR_PLAN = "sfdaq_ophyd.plans.fly does all of it"


@dataclass
class Flight:
    """A fly scan under way: what `kickoff` and `complete` return, and whether `complete` was called."""

    kicked_off: ActionStatus
    completed: ActionStatus
    completing: bool = False

    def end(self, exc: Exception | None) -> None:
        """End both, unless they have ended; with an error, if there is one."""
        for status in (self.kicked_off, self.completed):
            status.succeed() if exc is None else status.fail(exc)


@dataclass(kw_only=True)
class FrameFlight(Flight):
    """A fly scan whose frames come to this process: what was asked for, and how far it is."""

    request: Request
    n_done: int = 0
    paused: bool = False
    ended: bool = False


_together: WeakSet[Flying] = WeakSet()
"""Devices that are staged, and those that were together with one of them."""


class Flying(Device, ABC):
    """A device that flies; where its points come from and go to, it says itself.

    Attributes
    ----------
    failure : Exception or None
        Of the staging, or of a point since then.
    """

    failure: Exception | None = None
    _flight: Flight | None = None
    _page: dict | None = None

    @property
    @abstractmethod
    def is_staged(self) -> bool:
        """Whether the device is staged: settings of the run are fixed."""

    def _join_together(self) -> None:
        """As it is staged: forget the failure of before, and be one of those that are staged together."""
        self.failure = None
        if not any(device.is_staged for device in _together):
            _together.clear()
        _together.add(self)

    def _note_failure(self, status: StatusBase) -> None:
        """Remember what a point failed of; a callback, to be added before the RunEngine has the status."""
        exc = status.exception(timeout=0)
        if exc is not None and not isinstance(exc, Discarded):
            self.failure = exc

    def unstage(self) -> list[object]:
        """Give up what is in flight, keep what was saved or asked for, leave all as it was found. Safe twice.

        Everything is tried; the first failure is raised, unless the staging or a point failed before, here or
        at a detector staged together with this one: then it is logged, and noted on that.
        """
        problems: list[BaseException] = []
        for step in self._ending():
            try:
                step()
            except BaseException as exc:
                problems.append(exc)
        unstaged = super().unstage()
        if problems:
            self._unstage_failed(problems[0])
        return unstaged

    @abstractmethod
    def _ending(self) -> tuple[Callable[[], object], ...]:
        """Return what `unstage` does, in this order, whatever becomes of a step before."""

    def _unstage_failed(self, problem: BaseException) -> None:
        """Raise what failed in unstage; if staging or a point failed before, log it and note it on that."""
        before = [device.failure for device in (self, *_together) if device.failure is not None]
        if not before or not isinstance(problem, Exception):
            raise problem
        logger.error("%s: while it was unstaged: %s", self.name, problem)
        before[0].add_note(f"{self.name}: and while it was unstaged: {problem}")

    @property
    def flying(self) -> bool:
        """Whether points of a fly scan are coming, or wait to be collected."""
        return self._flight is not None

    def prepare(self, value: Any) -> ActionStatus:
        """Say what the next fly scan will be.

        Parameters
        ----------
        value : int or Mapping
            Number of points; or ``{"n_points": 100, ...}`` with what else the device takes.

        Returns
        -------
        ActionStatus
            Done.

        Raises
        ------
        RequestError
            No whole number of points, 1 or more.
        """
        self._prepare(dict(value) if isinstance(value, dict) else {"n_points": value})
        return ActionStatus.done_at_once(self, "prepare")

    @abstractmethod
    def _prepare(self, settings: dict[str, Any]) -> None:
        """Take what `prepare` was given, and count points anew."""

    @abstractmethod
    def kickoff(self) -> ActionStatus:
        """Start a fly scan; what an earlier one left uncollected is taken back. Done when armed."""

    def complete(self) -> ActionStatus:
        """Return the status of the whole fly scan, the same one each time; a pause does not end it.

        Raises
        ------
        DetectorStateError
            No fly scan was kicked off.
        """
        flight = self._flight
        if flight is None:
            raise DetectorStateError(f"{self.name}: complete, but no fly scan was kicked off")
        if not flight.completing:
            flight.completing = True
            self._complete()
        return flight.completed

    def _complete(self) -> None:
        """Begin what is done only once the fly scan is to be completed."""

    def describe_collect(self) -> dict:
        """Return the data keys of a point whose ids and numbers are, as its images, external.

        Raises
        ------
        DetectorStateError
            The stream was not declared, as with ``bp.fly``: bluesky collects no files then.
        """
        is_declared = self._is_declared
        if self._flight is not None and self._flight.completing and not is_declared:
            raise DetectorStateError(
                f"{self.name}: collect needs a stream that was declared before: "
                f"bps.declare_stream({self.name}, name=..., collect=True). {OUR_PLAN}"
            )
        return self._external_keys()

    @property
    @abstractmethod
    def _is_declared(self) -> bool:
        """Whether the RunEngine asked for a description since stage."""

    @abstractmethod
    def _external_keys(self) -> dict:
        """Note that the RunEngine begins a stream, and return its data keys."""

    @abstractmethod
    def describe_flown(self) -> dict:
        """Return the data keys of a point whose ids and numbers are in events."""

    @property
    @abstractmethod
    def n_ready(self) -> int:
        """Points of a fly scan that were not collected yet."""

    @property
    @abstractmethod
    def n_collected(self) -> int:
        """Points saved since the stream was described, or the fly scan prepared."""

    @abstractmethod
    def get_index(self) -> int:
        """Return how many points the stream has, or may have now; counted anew after a `prepare`."""

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict]]:
        """Yield the documents of points that were not handed out yet, up to an `index`; see `get_index`."""
        n_points = self.n_ready if index is None else min(self.n_ready, index - self.n_collected)
        yield from self.collect_flown(n_points, in_file=True)

    @abstractmethod
    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next `n_points` points.

        Parameters
        ----------
        n_points : int
            At most as many as are ready.
        in_file : bool
            Ids and numbers are columns of a file; else they are the rows of `flown_pages`.
        """

    def flown_pages(self) -> Iterator[dict]:
        """Yield one partial event page: the points whose documents `collect_flown` gave just before."""
        page, self._page = self._page, None
        if page is not None:
            yield page

    def _page_of(self, columns: Mapping[str, list], stamps: Sequence[float] | None = None) -> dict:
        """Return a partial event page of columns, with the time of each point; default is now."""
        n_points, now = len(next(iter(columns.values()))), time.time()
        data = {f"{self.name}_{key}": values for key, values in columns.items()}
        times = [now] * n_points
        return {"time": times, "data": data, "timestamps": {key: list(stamps or times) for key in data}}


class JointStatus(StatusBase):
    """Done when all of several statuses are; failed as soon as one is, with that one's words.

    It has no deadline of its own: each part has one.
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
        """Call `func` at each step of any part, with what it has in common: see `ActionStatus.watch`."""
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
    """Join partial event pages of the same points into one with the columns of all; none of none."""
    if not pages:
        return []
    data = {key: column for page in pages for key, column in page["data"].items()}
    timestamps = {key: column for page in pages for key, column in page["timestamps"].items()}
    return [{"time": pages[0]["time"], "data": data, "timestamps": timestamps}]

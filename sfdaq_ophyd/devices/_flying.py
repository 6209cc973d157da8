"""The flying half of a detector: one acquisition of many points, collected while it runs.

Bluesky's own stubs collect what is in files and nothing else: `describe_collect`, `get_index` and
`collect_asset_docs` give them images, ids and numbers as columns of the file. `FlyGroup`, for our `fly`, has
the ids and numbers as rows of events: `describe_flown`, `collect_flown` and `flown_pages`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ophyd import Signal
from ophyd.status import StatusBase

from ..errors import DetectorStateError, RequestError
from ._acquisition import Acquisition, Rules
from ._assets import external_key
from ._source import Request
from ._status import ActionStatus, JointStatus, Setting, whole_number
from ._store import PointStore

OUR_PLAN = "sfdaq_ophyd.plans.fly does all of it"


@dataclass
class Flight:
    """A fly scan under way."""

    request: Request
    kicked_off: ActionStatus
    completed: ActionStatus
    n_done: int = 0
    completing: bool = False
    paused: bool = False
    ended: bool = False


class Flying:
    """The verbs of a fly scan; `Detector`, whose part this is, has what is only declared here."""

    name: str
    n_points: Signal
    timeout: Setting
    _store: PointStore | None
    _acquisition: Acquisition | None
    _flight: Flight | None = None
    _prepared: Any = None
    _page: dict | None = None

    def _need_stage(self, verb: str, hint: str = "") -> PointStore:
        """Return where the points of this staging go; DetectorStateError if there is none."""
        raise NotImplementedError

    def _give_up(self, exc: Exception | None = None) -> None:
        """Discard the acquisition in flight, if any; its status ends, with `exc` if there is one."""
        raise NotImplementedError

    def _rules(self) -> Rules:
        """Return the limits and the loss policy, as the signals say now."""
        raise NotImplementedError

    def _frame_keys(self, flying: bool = False) -> dict:
        """Return the data keys of a point of a step scan, or of a fly scan."""
        raise NotImplementedError

    def _columns(self, n_points: int) -> dict[str, list]:
        """Return what the next points say beside their images, by column."""
        raise NotImplementedError

    def _acquire(
        self,
        request: Request,
        rules: Rules,
        *,
        on_success: Callable[[], object],
        on_failure: Callable[[Exception], object],
        on_progress: Callable[[int, str], None],
        on_armed: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to bring frames to the store."""
        raise NotImplementedError

    @property
    def flying(self) -> bool:
        """Whether points of a fly scan are coming, or wait to be collected."""
        return self._flight is not None

    def prepare(self, value: Any) -> ActionStatus:
        """Say what the next fly scan will be.

        Parameters
        ----------
        value : int or Mapping
            Number of points; or ``{"n_points": 100, ...}``, the rest of which goes to the source.

        Returns
        -------
        ActionStatus
            Done.
        """
        settings = dict(value) if isinstance(value, dict) else {"n_points": value}
        n_points = settings.pop("n_points", self.n_points.get())
        self.n_points.put(whole_number(f"{self.name}.n_points", n_points, 1))
        self._prepared = settings or None
        if self._store is not None:
            self._store.prepared()
        return ActionStatus.done_at_once(self, "prepare")

    def kickoff(self) -> ActionStatus:
        """Start a fly scan of `n_points` points; what an earlier one left uncollected is taken back.

        Returns
        -------
        ActionStatus
            Done when the detector is armed.
        """
        store = self._need_stage("kickoff", OUR_PLAN)
        self._give_up()
        store.take_back_unsaved()
        n = store.frames_per_point
        n_points = whole_number(f"{self.name}.n_points", self.n_points.get(), 1)
        request = Request(n_points * n, n, flying=True, settings=self._prepared)
        rules = self._rules()
        limit = rules.longest(request.n_frames)
        self._flight = Flight(
            request,
            ActionStatus(self, "kickoff", limit, unit="steps"),
            ActionStatus(self, "fly scan", limit, target=request.n_frames),
        )
        self._fly(self._flight)
        return self._flight.kicked_off

    def complete(self) -> ActionStatus:
        """Return the status of the whole fly scan, the same one each time.

        Returns
        -------
        ActionStatus
            Done when every frame is on disk; a pause does not end it.
        """
        if self._flight is None:
            raise DetectorStateError(f"{self.name}: complete, but no fly scan was kicked off")
        self._flight.completing = True
        return self._flight.completed

    def get_index(self) -> int:
        """Return how many points the stream has, or may have now; counted anew after a `prepare`."""
        return self._need_stage("get_index").index

    def describe_collect(self) -> dict:
        """Return the data keys of a point whose ids and numbers are, as the images, external.

        Raises
        ------
        DetectorStateError
            The stream was not declared, as with ``bp.fly``: bluesky collects no files then.
        """
        store, flight = self._need_stage("describe_collect"), self._flight
        if flight is not None and flight.completing and not store.has_streams:
            raise DetectorStateError(
                f"{self.name}: collect needs a stream that was declared before: "
                f"bps.declare_stream({self.name}, name=..., collect=True). {OUR_PLAN}"
            )
        in_file = {f"{self.name}_{column}" for column in store.columns_in_file}
        keys = OrderedDict(
            (key, external_key(data_key))
            for key, data_key in self._frame_keys(flying=True).items()
            if key in in_file or "external" in data_key
        )
        store.described(keys)
        return keys

    def describe_flown(self) -> dict:
        """Return the data keys of a point whose ids and numbers are in events."""
        self._need_stage("describe_flown").described()
        return self._frame_keys(flying=True)

    def flown_pages(self) -> Iterator[dict]:
        """Yield one partial event page: the points whose documents `collect_flown` gave just before."""
        page, self._page = self._page, None
        if page is None:
            return
        n_points, now = len(page["event_id"]), time.time()
        data = {f"{self.name}_{key}": values for key, values in page.items()}
        yield {"time": [now] * n_points, "data": data, "timestamps": {key: [now] * n_points for key in data}}

    @property
    def n_ready(self) -> int:
        """Points of a fly scan on disk that were not collected yet."""
        return self._need_stage("collect").n_ready if self.flying else 0

    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next `n_points` points.

        Their rows will come from `flown_pages`; with `in_file` they are columns of the file.
        """
        store = self._need_stage("collect")
        self._page = None
        if n_points:
            self._page = None if in_file else self._columns(n_points)
            yield from store.documents(n_points, in_file=in_file)
        self._finish_flight()

    def _fly(self, flight: Flight) -> None:
        flight.paused = False
        n_before = flight.n_done

        def progress(n_frames: int, seen: str) -> None:
            flight.completed.progress(n_before + n_frames, seen)

        def ended() -> None:
            flight.ended = True
            self._finish_flight()

        def failed(exc: Exception) -> None:
            flight.kicked_off.fail(exc)
            flight.completed.fail(exc)

        if flight.n_done == flight.request.n_frames:
            self._need_stage("complete").flush()
            return ended()
        self._acquire(
            flight.request.rest(flight.n_done),
            self._rules(),
            on_armed=flight.kicked_off.succeed,
            on_progress=progress,
            on_success=ended,
            on_failure=failed,
        )

    def _finish_flight(self) -> None:
        """Complete once a single collection brings the rest; each brings the points of one file."""
        flight = self._flight
        if flight is not None and flight.ended and not self._need_stage("complete").more_files:
            flight.completed.succeed()

    def _pause_flight(self) -> None:
        """Give up at the device; whole points stay, the fly scan goes on after `resume`."""
        flight, acquisition = self._flight, self._acquisition
        if flight is None or acquisition is None or flight.paused or flight.ended or flight.completed.done:
            return
        acquisition.discard()
        if flight.ended or flight.completed.done:  # the last frame was faster
            return
        flight.n_done += acquisition.n_done - self._need_stage("pause").take_back_partial()
        flight.paused = True
        for status in (flight.kicked_off, flight.completed):
            status.hold()

    def _resume_flight(self) -> None:
        flight = self._flight
        if flight is not None and flight.paused:
            for status in (flight.kicked_off, flight.completed):
                if not status.done:
                    status.release()
            self._fly(flight)

    def _end_flight(self, exc: Exception | None) -> None:
        flight, self._flight, self._page = self._flight, None, None
        if flight is not None:
            for status in (flight.kicked_off, flight.completed):
                status.succeed() if exc is None else status.fail(exc)


class Flyer(Protocol):
    """A device whose points are collected with those of others: ours, and the broker's."""

    name: str

    @property
    def n_ready(self) -> int:
        """Points on disk that were not collected yet."""

    @property
    def hints(self) -> dict:
        """The hinted ``fields``."""

    def kickoff(self) -> ActionStatus:
        """Start; done when armed."""

    def complete(self) -> ActionStatus:
        """Return the status of the whole fly scan."""

    def describe_flown(self) -> dict:
        """Return the data keys of a point."""

    def read_configuration(self) -> dict:
        """Return the configuration."""

    def describe_configuration(self) -> dict:
        """Describe the configuration."""

    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next `n_points` points."""

    def flown_pages(self) -> Iterator[dict]:
        """Yield the rows of the points whose documents were given just before."""


class FlyGroup:
    """One flyer made of detectors: row k holds point k of each of them.

    Bluesky collects rows (ids, numbers) and images together only from one flyer that has no `get_index`; this
    is that flyer. The detectors are staged, paused and resumed by themselves.

    Parameters
    ----------
    detectors : sequence of Detector or SfDaqBroker
        With different names.
    name : str, optional
        Default: the detectors' names joined by "+".
    """

    parent = None

    def __init__(self, detectors: Sequence[Flyer], name: str = ""):
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

"""A writer and the detectors that take frames while it is open: those inside it, and those around it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any

from ophyd import Component as Cpt
from ophyd import Signal

from ...errors import Discarded, RequestError, ServiceTimeout
from ...limits import Limit
from .._acquisition import LossPolicy
from .._detector import Detector, FileDetector
from .._flying import joined_page
from .._pulse_window import NextWindow, PulseWindow
from .._status import ActionStatus
from ._source import START_LIMIT

LOOK = 0.05
"""s between two looks whether a wait was given up."""


class Opening:
    """Whether the writer takes the images of the point just triggered; a status for those who ask.

    Attributes
    ----------
    asked : bool
        Whether anybody waits for it.
    """

    def __init__(self, device):
        self._device, self.asked = device, False
        self._ended: Future[None] = Future()
        self._status: ActionStatus | None = None

    def end(self, exc: Exception | None = None) -> None:
        """Note that it takes images, or why it does not; the first word counts."""
        with suppress(InvalidStateError):
            self._ended.set_result(None) if exc is None else self._ended.set_exception(exc)

    def status(self) -> ActionStatus:
        """Return the status, the same one each time."""
        self.asked = True
        if self._status is None:
            limit = START_LIMIT + float(self._device.timeout.get())
            status = self._status = ActionStatus(self._device, "start", limit, unit="steps")
            self._ended.add_done_callback(lambda ended: status.outcome(ended.result)())
        return self._status


class DetectorGroup:
    """The verbs of several detectors, forwarded.

    They are triggered once the writer takes images; its point is done when theirs are. For fly scans they
    must be of this package, and are kicked off then.
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
        problems: list[BaseException] = []
        for detector in self.detectors:
            try:
                getattr(detector, verb, lambda: None)()
            except BaseException as exc:
                problems.append(exc)
        if problems:
            raise problems[0]

    def merged(self, verb: str) -> OrderedDict:
        """Return the dictionaries of all, joined."""
        return OrderedDict(item for one in self.detectors for item in getattr(one, verb)().items())

    def trigger(self) -> None:
        """Trigger all; what is left of an earlier attempt is given up before."""
        self._give_up_rest()
        self._statuses = []
        for detector in self.detectors:  # if one refuses, those before it are known
            self._statuses.append(detector.trigger())

    @property
    def flying(self) -> bool:
        """Whether they were kicked off for the fly scan that is under way."""
        return self._flying

    def forget(self) -> None:
        """Wait for none of them any more; what is left of an earlier attempt is given up."""
        self._give_up_rest()
        self._statuses, self._flying = [], False

    def _give_up_rest(self) -> None:
        if not all(status.done for status in self._statuses):
            self.each("pause")

    @property
    def done(self) -> bool | None:
        """Whether all that were triggered have their frames; None if none were."""
        return all(status.done and status.success for status in self._statuses) if self._statuses else None

    def wait(self, timeout: float, given_up: threading.Event) -> None:
        """Wait until all are done, `timeout` s from step to step; raise what failed, or `Discarded`."""
        self._wait_for(self._statuses, timeout, given_up)

    # ---- fly scans ----------------------------------------------------------------------------------

    def prepare(self, n_points: int) -> None:
        """Make ready for a fly scan of `n_points` points."""
        for detector in self.detectors:
            if not isinstance(detector, Detector):
                raise RequestError("detectors", detector.name, "detectors of this package, for a fly scan")
            detector.prepare(n_points)

    def fly(self, timeout: float, given_up: threading.Event) -> None:
        """Kick off all, or let them go on after a pause; returns once they are armed, raises as `wait`."""
        if self._flying:
            self.each("resume")
            self._statuses = [detector.complete() for detector in self.detectors]
            return
        started = [detector.kickoff() for detector in self.detectors]
        self._statuses, self._flying = [detector.complete() for detector in self.detectors], True
        self._wait_for(started, timeout, given_up)

    # ---- inside -------------------------------------------------------------------------------------

    def _wait_for(self, statuses: Sequence, timeout: float, given_up: threading.Event) -> None:
        limit, seen = Limit(timeout), ""
        for detector, status in zip(self.detectors, statuses):
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


class ArmedSignal(Signal):
    """``set`` gives the status that is done once the writer takes the images of the point just triggered."""

    def set(self, value, **kwargs):
        """Return the status of the start."""
        return self.parent.opening.status()


class WithDetectors(FileDetector):
    """What staging, triggering and starting leave: those are the writer's."""

    next_window = Cpt(NextWindow, kind="omitted")
    armed = Cpt(ArmedSignal, value=0, kind="omitted")
    _detectors: DetectorGroup

    def join_window(self, window: PulseWindow) -> PulseWindow | None:
        """Have detectors that count pulses take the frames of the next point out of a window.

        Parameters
        ----------
        window : PulseWindow
            Of all devices that are triggered together.

        Returns
        -------
        PulseWindow or None
            The one given; None if none of the detectors counts pulses.
        """
        inside = self._detectors.detectors
        aware = [d for d in inside if isinstance(getattr(d, "next_window", None), NextWindow)]
        for detector in aware:
            detector.next_window.set(window)
        if not aware:
            return None
        window.hold(self.name)
        return window

    def read(self) -> OrderedDict:
        """Return ids, file, run id and counts of the point; then the detectors' readings."""
        return OrderedDict(**super().read(), **self._detectors.merged("read"))

    def describe(self) -> OrderedDict:
        """Describe what `read` returns, and the images."""
        return OrderedDict(**super().describe(), **self._detectors.merged("describe"))

    def read_configuration(self) -> OrderedDict:
        """Return the DAQ's configuration and the settings; then those of the detectors."""
        return OrderedDict(**super().read_configuration(), **self._detectors.merged("read_configuration"))

    def describe_configuration(self) -> OrderedDict:
        """Describe what `read_configuration` returns."""
        inside = self._detectors.merged("describe_configuration")
        return OrderedDict(**super().describe_configuration(), **inside)

    @property
    def hints(self) -> dict:
        """A few scalars for live plots."""
        fields = [f for detector in self._detectors.detectors for f in detector.hints.get("fields", ())]
        return {"fields": super().hints["fields"] + fields}

    def collect_asset_docs(self, index: int | None = None):
        """Yield the documents of the point's file, then those of the detectors."""
        yield from super().collect_asset_docs(index)
        if not self.flying:
            for detector in self._detectors.detectors:
                if hasattr(detector, "collect_asset_docs"):
                    yield from detector.collect_asset_docs()

    def pause(self) -> None:
        """Give up the point in flight, at the detectors too.

        A fly scan goes on with the first point that one of them does not have: row k is point k of all.
        """
        self._at_detectors_too("pause", super().pause)
        flying = [self, *(d for d in self._detectors.detectors if isinstance(d, Detector))]
        n_flown = [n for n in (detector.n_flown for detector in flying) if n is not None]
        if self._detectors.flying and len(n_flown) == len(flying):
            for detector in flying:
                detector.go_back(min(n_flown))

    def resume(self) -> None:
        """Go on with a fly scan; the detectors follow once the writer is open again."""
        if not self.flying:
            self._detectors.each("resume")
        super().resume()

    def stop(self, *, success: bool = False) -> None:
        """Give up what is in flight, at the detectors too. Safe at any time, and twice."""
        self._at_detectors_too("stop", partial(super().stop, success=success))

    def _at_detectors_too(self, verb: str, own: Callable[[], None]) -> None:
        """Call a verb of the detectors, the writer's own, and that of the detectors again.

        A writer that is opening triggers them until its thread has ended.
        """
        try:
            self._detectors.each(verb)
        finally:
            try:
                own()
            finally:
                self._detectors.each(verb)

    # ---- fly scans ----------------------------------------------------------------------------------

    def prepare(self, value: Any) -> ActionStatus:
        """Say what the next fly scan will be, to the detectors too; see `Detector.prepare`.

        RequestError also if one of them, or the writer, would take points again by itself.
        """
        self._check_policies()
        prepared = super().prepare(value)
        self._detectors.prepare(self.n_points.get())
        return prepared

    def _check_policies(self) -> None:
        """Refuse that one takes points of a fly scan again: the others count on, and rows mix points."""
        inside = [d for d in self._detectors.detectors if isinstance(d, Detector)]
        for device in [self, *inside] if inside else []:
            if device.loss_policy.get() == LossPolicy.RETAKE:
                expected = (
                    f"'{LossPolicy.STRICT}' or '{LossPolicy.TOLERANT}' in a fly scan of {self.name} with "
                    f"{', '.join(d.name for d in inside)} inside: the others do not take those points again"
                )
                raise RequestError(f"{device.name}.loss_policy", device.loss_policy.get(), expected)

    def describe_collect(self) -> dict:
        """Return the data keys of a point, all external, and those of the detectors."""
        return {**super().describe_collect(), **self._detectors.merged("describe_collect")}

    def describe_flown(self) -> dict:
        """Return the data keys of a point, and those of the detectors."""
        return {**super().describe_flown(), **self._detectors.merged("describe_flown")}

    def get_index(self) -> int:
        """Return how many points the stream has, or may have now."""
        return min([super().get_index(), *(d.get_index() for d in self._detectors.detectors)])

    @property
    def n_ready(self) -> int:
        """Points of a fly scan that this device and the detectors have, and that were not collected yet."""
        return min([super().n_ready, *(d.n_ready for d in self._detectors.detectors)])

    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next `n_points` points, and those of the detectors."""
        yield from super().collect_flown(n_points, in_file=in_file)
        for detector in self._detectors.detectors:
            yield from detector.collect_flown(n_points, in_file=in_file)

    def flown_pages(self) -> Iterator[dict]:
        """Yield one partial event page with the rows of all."""
        inside = (page for detector in self._detectors.detectors for page in detector.flown_pages())
        yield from joined_page([*super().flown_pages(), *inside])

"""Frames that come one by one: stale ones kept out, late ones put in order, gaps and the end found out."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from ...limits import Limit
from ...wire.frame import Frame, FrameFormat, MissingFrame, Tables
from ...wire.simplon import DetectorState, event_id
from .._source import Request
from ._control import EigerControl
from ._source import SeriesSource, SoftwareTriggers

END_GRACE = 1.0
"""s without a frame after the end of the series was told in which a late one may still come."""

WINDOW = 8
"""Frames that may wait for an earlier one; fewer where they are large."""

WINDOW_BYTES = 512 * 2**20
"""The same in bytes; at least two frames."""

RawFrame = TypeVar("RawFrame")
"""A frame as it came from the interface."""

Passed = tuple[str, RawFrame | str | None]
"""Event id and frame; text says why it cannot be taken, None that it is lost."""


class SeriesOrder(Generic[RawFrame]):
    """Let only the frames of one series pass, each once and in order, and say which are missing.

    The monitor may hand out a frame before an earlier one. It waits for that: until it comes, until more than
    `window` frames wait, or until the series ends. `first` is the number of the first image, where it is
    known: the monitor's start at 0 on some firmware and at 1 on other; the lowest first number ever seen
    counts.

    `uid` is the detector's unique id of the series, once a frame told it: numbers begin anew when the
    detector does, and two series of one number do not mix.
    """

    def __init__(self, first: int | None = None):
        self.window = WINDOW
        self.series_id: int | None = None
        self.uid = ""
        self._first = first
        self._next: int | None = None
        self._waiting: dict[int, RawFrame | str] = {}
        self._past: set[str] = set()

    def fit(self, frame_bytes: int) -> None:
        """Let as many frames of this size wait as there is memory for."""
        self.window = max(2, min(WINDOW, WINDOW_BYTES // frame_bytes))

    def start(self, series_id: int) -> None:
        """Begin a new series."""
        self._past.add(self.uid)
        self.series_id, self.uid = series_id, ""
        self._next, self._waiting = None, {}

    def is_past(self, uid: str) -> bool:
        """Whether a series of this unique id was the open one before."""
        return uid in self._past

    def accept(
        self, series_id: int | None, image_id: int, frame: RawFrame | str, *, uid: str = "", n_wanted: int = 1
    ) -> list[Passed[RawFrame]] | None:
        """Take a frame that came; return event id and frame of what can go on now, in order.

        No more than `n_wanted` go on; a lost one is None. All of it is None if the frame is stale.
        """
        if series_id != self.series_id or (uid and (uid in self._past or uid != (self.uid or uid))):
            return None
        if self._next is None and self._first is not None:
            self._next = self._first = min(self._first, image_id)
        if image_id in self._waiting or (self._next is not None and image_id < self._next):
            return None
        self.uid = self.uid or uid
        self._waiting[image_id] = frame
        if self._next is None:
            if image_id != 0 and 0 not in self._waiting and len(self._waiting) < min(n_wanted, self.window):
                return []  # the number 0 may still come
            self._next = self._first = min(self._waiting)
        return self._in_order(n_wanted, keep=self.window)

    def end(self, n_wanted: int) -> list[Passed[RawFrame]]:
        """Return what waits, and what is missing between; nothing more comes of this series."""
        if self._next is None and self._waiting:
            self._next = self._first = min(self._waiting)
        return self._in_order(n_wanted, keep=0)

    def still_missing(self, n: int) -> list[str]:
        """Return what to call `n` frames that did not come at the end."""
        start = self._next if self._next is not None else self._first
        if start is None or self.series_id is None:
            return [""] * n
        return [event_id(self.series_id, start + k) for k in range(n)]

    def _in_order(self, n: int, keep: int) -> list[Passed[RawFrame]]:
        """Return the next `n` frames at the most, lost ones among them if more than `keep` wait for them."""
        passed: list[Passed[RawFrame]] = []
        while (
            self._waiting and len(passed) < n and (self._next in self._waiting or len(self._waiting) > keep)
        ):
            assert self.series_id is not None and self._next is not None  # what waits is of a series
            passed.append((event_id(self.series_id, self._next), self._waiting.pop(self._next, None)))
            self._next += 1
        return passed


class Arrival(NamedTuple, Generic[RawFrame]):
    """A frame that came, with its numbers."""

    series_id: int | None
    image_id: int
    uid: str
    """Unique id of the series; empty if it is not told."""
    frame: RawFrame | str
    """The frame; text says why it cannot be taken."""


class Ending:
    """How a series ends when frames do not come."""

    def __init__(self, longest: float, grace: float):
        self.limit, self.grace = Limit(longest), Limit(grace)  # without a frame: in all, after the exposure
        self.why = ""  # no more come
        self.rest: Limit | None = None  # once that is known: without a frame that is late
        self.exposed = self.told = False  # whether the detector has exposed all, has told the end
        self.n_quiet = 0  # looks since then at something that does nothing any more

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for any more; for one look."""
        return self.rest is not None and self.rest.reached()

    def restart(self) -> None:
        """Begin all limits anew: a frame came."""
        for limit in (self.limit, self.grace, self.rest):
            if limit is not None:
                limit.restart()


class OrderedSource(SeriesSource, Generic[RawFrame]):
    """A source whose frames come one by one, each with its numbers; `first` as `SeriesOrder` has it."""

    grace = 0.0
    """s after the exposure in which a frame may be late."""

    def __init__(self, control: EigerControl, first: int | None = None):
        super().__init__(control)
        self._order = SeriesOrder[RawFrame](first)
        self._explained = False

    # what the interface brings

    @abstractmethod
    def _arrivals(self, stop: threading.Event) -> Iterator[list[Arrival[RawFrame]] | None]:
        """Yield what comes, of any series, and None if nothing has for a moment, until `stop` is set."""

    @abstractmethod
    def _made(self, name: str, frame: RawFrame) -> Iterator[Frame | MissingFrame | FrameFormat]:
        """Yield a frame that came, of this event id, as files and events have it."""

    @abstractmethod
    def _explanation(self) -> str:
        """Ask what explains that frames are missing."""

    def _new_tables(self) -> Iterator[Tables]:
        """Yield what came with the beginning of the series, once."""
        return iter(())

    def _is_told_over(self) -> bool:
        """Whether the detector has said that the open series is over."""
        return False

    # frames of our own series

    def _take_series(
        self, request: Request, triggers: SoftwareTriggers | None, stop: threading.Event
    ) -> Iterator[Frame | MissingFrame | FrameFormat | Tables]:
        n_left, end = request.n_frames, Ending(self._longest, self.grace)
        self._explained = False
        for came in self._arrivals(stop):
            if stop.is_set():
                return
            yield from self._new_tables()
            if came is None:
                if self._is_over(triggers, end):
                    break
                continue
            passed: list[Passed[RawFrame]] = []
            for arrival in came:
                passed += self._accepted(arrival, n_left - len(passed))
            if passed:
                end.restart()
            elif end.limit.left == 0 and self._is_over(triggers, end):  # others come, and may do so for ever
                break
            n_left -= len(passed)
            yield from self._in_order(passed)
            if not n_left:
                return
        if not stop.is_set():
            yield from self._rest(n_left, end)

    def _accepted(self, arrival: Arrival[RawFrame], n_wanted: int) -> list[Passed[RawFrame]]:
        passed = self._order.accept(
            arrival.series_id, arrival.image_id, arrival.frame, uid=arrival.uid, n_wanted=n_wanted
        )
        if passed is None and not isinstance(arrival.frame, str):
            self._count_stale(1)
        return passed or []

    def _in_order(
        self, passed: Iterable[Passed[RawFrame]], why: str = ""
    ) -> Iterator[Frame | MissingFrame | FrameFormat]:
        for name, frame in passed:
            if frame is not None and not isinstance(frame, str):
                yield from self._made(name, frame)
                continue
            reason = frame or ("" if self._explained else why or self._explanation())
            self._explained = True  # once is enough, and takes several requests
            self._armed_for = None
            yield MissingFrame(f"{name} ({reason})".strip() if reason else name)

    def _is_over(self, triggers: SoftwareTriggers | None, end: Ending) -> bool:
        """Find out whether anything more can come, now that nothing of ours has for a moment."""
        if not end.told and self._is_told_over():
            end.told, end.rest = True, Limit(END_GRACE)
            end.why = end.why or f"the detector ended the series; {self._explanation()}"
        if end.rest is not None:
            return end.over
        if triggers is not None:
            triggers.check(self.control)
        late = end.limit.reached()
        if triggers is not None and not late:
            if not end.exposed:
                end.exposed = triggers.done
                end.grace.restart()
                return False  # what was there when the exposure ended comes before the next look
            if not end.grace.reached():
                return False
        state = self.control.working_state()
        if state == DetectorState.IDLE or (triggers is not None and state == DetectorState.READY):
            end.why = f"the detector is in state '{state}' and gives no more images"
        elif late:
            end.why = f"no image for {self._settings.timeout:g} s beyond the exposure; state '{state}'"
        if end.why:
            end.why += f"; {self._explanation()}"
            self._armed_for = None
            end.rest = Limit(self.rest_time)
            self.client.disarm()  # what is on its way still comes; some firmware gives its last image now
        return False

    def _rest(self, n: int, end: Ending) -> Iterator[Frame | MissingFrame | FrameFormat]:
        """Yield the last `n` frames of a series that is over: those that wait, and the lost ones."""
        passed = self._order.end(n)
        lost = [(name, None) for name in self._order.still_missing(n - len(passed))]
        yield from self._in_order([*passed, *lost], end.why)

"""One acquisition: a thread takes items from the source, a second one judges them and hands them on."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from ..errors import Discarded, FramesMissing, ServiceTimeout
from ..wire.frame import Frame, MissingFrame
from ._feed import JOIN_TIMEOUT, Feed, forget
from ._source import FrameSource, Progress, Request

logger = logging.getLogger(__name__)

_LATE = object()


class LossPolicy(StrEnum):
    """What becomes of a point when a frame does not come."""

    STRICT = "strict"
    """The point fails, and says what is missing."""
    RETAKE = "retake"
    """The point is taken again, a bounded number of times; then it fails."""
    TOLERANT = "tolerant"
    """The gap is marked: `NAME_is_good` False, `NAME_n_missing` counts."""


class FrameSink(Protocol):
    """Where the frames go; called from one thread at a time."""

    def append(self, item: Any) -> None:
        """Take one more item; may block for a bounded time."""

    def take_back_partial(self) -> int:
        """Forget the frames that do not make a whole point; return how many those were."""

    def flush(self) -> None:
        """Bring everything to where readers see it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When an acquisition is late, and what happens then.

    Attributes
    ----------
    timeout : float
        s without a new frame, on top of `frame_time`, after which the next one counts as lost.
    frame_time : float
        s from frame to frame.
    policy : LossPolicy
        What happens when a frame is lost.
    max_retakes : int
        How often one point is taken again.
    depth : int
        Frames that may wait between source and file.
    """

    timeout: float
    frame_time: float = 0.0
    policy: LossPolicy = LossPolicy.STRICT
    max_retakes: int = 3
    depth: int = 8

    @property
    def limit(self) -> float:
        """S without a frame after which it is lost."""
        return self.timeout + self.frame_time

    def longest(self, n_frames: int) -> float:
        """Return s after which any acquisition of `n_frames` has ended, one way or the other."""
        attempts = 1 + (self.max_retakes if self.policy is LossPolicy.RETAKE else 0)
        return attempts * (n_frames + 2) * (self.limit + 2 * JOIN_TIMEOUT)


class Acquisition:
    """Bring `request.n_frames` frames from a source to a sink; runs from the moment it is made.

    Parameters
    ----------
    name : str
        Of the device, for messages and threads.
    source : FrameSource
        Where frames come from.
    request : Request
        How many.
    sink : FrameSink
        Where frames go.
    rules : Rules
        Deadlines and loss policy.
    on_armed : callable
        Called once, when the source is armed or its first frame came.
    on_progress : callable
        Called with the number of frames so far and a text, after each frame.
    on_end : callable
        Called once, last, with None or the exception; with `Discarded` if it was given up.
    """

    def __init__(
        self,
        name: str,
        source: FrameSource,
        request: Request,
        sink: FrameSink,
        rules: Rules,
        *,
        on_armed: Callable[[], None] = lambda: None,
        on_progress: Callable[[int, str], None] = lambda n, seen: None,
        on_end: Callable[[Exception | None], None] = lambda exc: None,
    ):
        self._name, self._source, self._request, self._sink, self._rules = name, source, request, sink, rules
        self._on_armed, self._on_progress, self._on_end = on_armed, on_progress, on_end
        self._armed, self._seen = False, "no frame yet"
        self._lock = threading.Lock()
        self._feed: Feed | None = None
        self._given_up = False
        self._ended = threading.Event()
        self.n_done = 0
        self._thread = threading.Thread(target=self._run, name=f"{name} frames", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether frames may still be added to the sink."""
        return not self._ended.is_set()

    def discard(self) -> None:
        """Give up, at the device too; returns once nothing more can come. Safe twice, and when it has ended.

        Frames already in the sink stay there: the caller decides which of them count.
        """
        with self._lock:
            self._given_up, feed = True, self._feed
        try:
            if feed is not None and self.running:
                feed.stop()
        finally:
            if threading.current_thread() is not self._thread:
                self._thread.join(JOIN_TIMEOUT)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            what = f"{self._name}: giving up the acquisition"
            raise ServiceTimeout(what, JOIN_TIMEOUT, "writing frames")

    def _run(self) -> None:
        try:
            retakes = best = 0
            while self.n_done < self._request.n_frames:
                try:
                    self._attempt()
                except FramesMissing as exc:
                    self._keep_whole_points()
                    retakes = 0 if self.n_done > best else retakes
                    if self._rules.policy is not LossPolicy.RETAKE or retakes >= self._rules.max_retakes:
                        raise
                    retakes, best = retakes + 1, self.n_done
                    logger.warning("%s: retake %d: %s", self._name, retakes, exc)
            self._sink.flush()
        except Exception as exc:
            self._end(exc)
        else:
            self._end(None)

    def _end(self, exc: Exception | None) -> None:
        self._ended.set()
        self._on_end(exc)

    def _attempt(self) -> None:
        request = self._request.rest(self.n_done)
        with self._lock:
            if self._given_up:
                raise Discarded(f"{self._name}: acquisition given up")
            feed = self._feed = Feed(self._source, request, self._rules.depth, self._name)
        try:
            self._take(feed)
        except BaseException:
            feed.stop()
            feed.forget_rest()
            raise

    def _take(self, feed: Feed) -> None:
        """Move items until there are enough and the source has cleaned up after itself."""
        deadline = time.monotonic() + self._rules.limit
        while True:
            item = self._next(feed, deadline)
            if item is Feed.END and self.n_done == self._request.n_frames:
                return
            if item is Feed.END or item is _LATE:
                why = "the source ended" if item is Feed.END else f"nothing for {self._rules.limit:g} s"
                return self._fill(feed, f"{why}; {self._seen}")
            if self._accept(item):
                deadline = time.monotonic() + self._rules.limit

    def _next(self, feed: Feed, deadline: float) -> object:
        """Return the next item; raise what the source raised, or `Discarded` if it was given up."""
        try:
            item = feed.get(max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            item = _LATE
        if feed.stopped:
            forget(item)
            raise Discarded(f"{self._name}: acquisition given up")
        if isinstance(item, Exception):
            raise item
        return item

    def _accept(self, item: object) -> bool:
        """Hand an item on; return whether it was a step forward."""
        was_armed, self._armed = self._armed, True
        if not was_armed:
            self._on_armed()
        if item is None:
            return not was_armed
        if isinstance(item, Progress):
            self._seen = item.seen or f"{item.n_frames} frames announced"
            self._on_progress(self.n_done + item.n_frames, self._seen)
        elif isinstance(item, MissingFrame) and self._rules.policy is not LossPolicy.TOLERANT:
            raise self._missing(self._seen, [item.what] if item.what else [])
        elif isinstance(item, Frame | MissingFrame):
            self._add(item)
        else:
            self._sink.append(item)
        return True

    def _fill(self, feed: Feed, why: str) -> None:
        """Mark what did not come, if that is allowed."""
        if self.n_done == self._request.n_frames:
            raise ServiceTimeout(f"{self._name}: end of acquisition", self._rules.limit, why)
        if self._rules.policy is not LossPolicy.TOLERANT:
            raise self._missing(why)
        feed.stop()
        while self.n_done < self._request.n_frames:
            self._add(MissingFrame())

    def _missing(self, why: str, ids=()) -> FramesMissing:
        if state := getattr(self._source, "state", str)():
            why = f"{why}; {state}"
        return FramesMissing(
            self._name, asked=self._request.n_frames, got=self.n_done, missing=ids, detail=why
        )

    def _add(self, item: Frame | MissingFrame) -> None:
        self._sink.append(item)
        self.n_done += 1
        came = isinstance(item, Frame)
        self._seen = f"last frame {item.event_id}" if came else f"frame {item.what} missing"
        self._on_progress(self.n_done, self._seen)

    def _keep_whole_points(self) -> None:
        self.n_done -= self._sink.take_back_partial()
        self._on_progress(self.n_done, "taken again")

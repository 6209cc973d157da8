"""One acquisition: a thread takes items from the source, a second one judges them and hands them on.

Both belong to the staged device, and serve all its points.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ..errors import Discarded, FramesMissing, ServiceTimeout
from ..limits import Limit
from ..wire.frame import Frame, MissingFrame
from ._source import FrameSource, Progress, Request, WrittenFile
from ._store import PointStore
from ._worker import JOIN_TIMEOUT, Worker, ends_within

logger = logging.getLogger(__name__)


BUFFER_BYTES = 512 * 2**20
"""Frames that may wait between source and file, in bytes; at least 4 frames, at most 1000."""


class LossPolicy(StrEnum):
    """What becomes of a point when a frame does not come."""

    STRICT = "strict"
    """The point fails, and says what is missing: a frame, or what a frame lacks."""
    RETAKE = "retake"
    """The point is taken again, a bounded number of times; then it fails."""
    TOLERANT = "tolerant"
    """The gap is marked: `NAME_is_good` False, `NAME_n_missing` counts; what is not whole is kept."""


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
    """

    timeout: float
    frame_time: float = 0.0
    policy: LossPolicy = LossPolicy.STRICT
    max_retakes: int = 3

    @property
    def limit(self) -> float:
        """Time without a frame after which the next one is lost, s."""
        return self.timeout + self.frame_time

    def longest(self, n_frames: int) -> float:
        """Return the time after which any acquisition has ended, one way or the other, s."""
        attempts = 1 + (self.max_retakes if self.policy is LossPolicy.RETAKE else 0)
        return attempts * (n_frames + 2) * (self.limit + 2 * JOIN_TIMEOUT)


class Crew:
    """The threads of a device: one iterates its source, one takes what came, one writes settings."""

    def __init__(self, name: str, stays: Callable[[], bool]):
        self._all = [Worker(f"{name} {what}", stays) for what in ("source", "frames", "write")]
        self.source, self.frames, self.writes = self._all

    def end(self) -> None:
        """Let them go. Safe twice; what is to be done afterwards gets new ones."""
        for worker in self._all:
            worker.end()


class SourceCall:
    """One call of ``source.frames`` in a worker's thread; a queue at its end holds up to `depth` items."""

    END = object()
    """The last item, unless the source raised: then the exception is."""

    NOTHING = object()
    """What `get` returns when no item came in time."""

    def __init__(self, source: FrameSource, request: Request, depth: int, worker: Worker):
        self._source, self._request, self._worker = source, request, worker
        self._items: queue.SimpleQueue = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self._ended = worker.do(self._run)

    def _run(self) -> None:
        last: object = self.END
        if self._stopped.is_set():
            return
        try:
            iterator = iter(self._source.frames(self._request))
            try:
                wanted = self._request.n_frames
                for item in iterator:
                    if not self._put(item):
                        return forget(item)
                    wanted -= isinstance(item, Frame | MissingFrame)
                    if wanted == 0:
                        break
            finally:
                getattr(iterator, "close", lambda: None)()
        except Exception as exc:
            last = exc
        finally:
            self._put(last)

    def _put(self, item: object) -> bool:
        self._room.acquire()
        if self._stopped.is_set():
            return False
        self._items.put(item)
        return True

    def get(self, timeout: float) -> object:
        """Return the next item; `NOTHING` if none comes within `timeout` s."""
        try:
            item = self._items.get(timeout=timeout)
        except queue.Empty:
            return self.NOTHING
        self._room.release()
        return item

    def stop(self) -> None:
        """Give up at the source, once, and wait until its thread has gone on."""
        try:
            with self._stopping:
                if not self._stopped.is_set():
                    self._stopped.set()
                    self._room.release(2)  # whoever waits to put, and the last item after that
                    self._items.put(self.END)  # wakes a reader; a busy one looks at `stopped` next
                    self._source.discard()
        finally:
            ended = ends_within(self._ended, JOIN_TIMEOUT)
        if not ended:
            self._worker.leave()
            raise ServiceTimeout(f"{self._worker.name}: giving up the acquisition", JOIN_TIMEOUT)

    def forget_rest(self) -> None:
        """Drop what nobody will take; after `stop`, from the thread that takes."""
        with contextlib.suppress(queue.Empty):
            while True:
                forget(self._items.get_nowait())

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()


def forget(item: object) -> None:
    """Let a file know, if the item is one, that its points are not kept."""
    if isinstance(item, WrittenFile):
        item.drop()


class Acquisition:
    """Bring `request.n_frames` frames from a source to a sink; runs from the moment it is made.

    Parameters
    ----------
    name, source, request, sink, rules, crew
        Of the device: whose frames, how many, where they go, in what time, and whose threads do it.
    on_armed : callable
        Called once, when the source is armed or its first frame came.
    on_progress : callable
        Called with the number of frames so far and a text, after each frame.
    on_end : callable
        Called once, last, with None or the exception; with `Discarded` if it was given up.

    Attributes
    ----------
    running : bool
        Whether frames may still be added to the sink.
    n_done : int
        Frames that were.
    """

    def __init__(
        self,
        name: str,
        source: FrameSource,
        request: Request,
        sink: PointStore,
        rules: Rules,
        crew: Crew,
        *,
        on_armed: Callable[[], None] = lambda: None,
        on_progress: Callable[[int, str], None] = lambda n, seen: None,
        on_end: Callable[[Exception | None], None] = lambda exc: None,
    ):
        self._name, self._source, self._request, self._sink, self._rules = name, source, request, sink, rules
        self._crew = crew
        self._on_armed, self._on_progress, self._on_end = on_armed, on_progress, on_end
        self._armed, self._seen = False, "no frame yet"
        self._lock = threading.Lock()
        self._call: SourceCall | None = None
        self._given_up = False
        self.running = True
        self.n_done = 0
        self._over = crew.frames.do(self._run)

    def discard(self) -> None:
        """Give up, at the device too; returns once nothing more can come. Safe twice, and when it has ended.

        Frames already in the sink stay there: the caller decides which of them count.
        """
        with self._lock:
            self._given_up, call = True, self._call
        try:
            if call is not None and self.running:
                call.stop()
        finally:
            ended = self._crew.frames.is_current or ends_within(self._over, JOIN_TIMEOUT)
        if not ended:
            self._crew.frames.leave()
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
            with contextlib.suppress(Exception):  # `exc` says why; a broken file has said so already
                self._sink.flush()  # what came before belongs to the run
            self._end(exc)
        else:
            self._end(None)

    def _end(self, exc: Exception | None) -> None:
        self.running = False
        self._on_end(exc)

    def _attempt(self) -> None:
        request = self._request.rest(self.n_done)
        with self._lock:
            if self._given_up:
                raise Discarded(f"{self._name}: acquisition given up")
            depth = min(1000, max(4, BUFFER_BYTES // self._sink.frame_format.frame_bytes))
            call = self._call = SourceCall(self._source, request, depth, self._crew.source)
        try:
            self._take(call)
        except BaseException:
            call.stop()
            call.forget_rest()
            raise

    def _take(self, call: SourceCall) -> None:
        """Move items until there are enough and the source has cleaned up after itself."""
        limit = Limit(self._rules.limit)
        while True:
            item = self._next(call, limit)
            if item is SourceCall.END and self.n_done == self._request.n_frames:
                return
            if item is SourceCall.END or item is SourceCall.NOTHING:
                why = "the source ended" if item is SourceCall.END else f"nothing for {self._rules.limit:g} s"
                return self._fill(call, f"{why}; {self._seen}")
            if self._accept(item):
                limit.restart()

    def _next(self, call: SourceCall, limit: Limit) -> object:
        """Return the next item, or `SourceCall.NOTHING` if it is late; raise what the source raised."""
        item = SourceCall.NOTHING
        while item is SourceCall.NOTHING and not call.stopped:
            item = call.get(limit.step(self._rules.limit))
            if item is SourceCall.NOTHING and limit.reached():
                break
        if call.stopped:
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
        elif (lost := _lost(item)) is not None and self._rules.policy is not LossPolicy.TOLERANT:
            raise self._missing(self._seen, [lost] if lost else [])
        elif isinstance(item, Frame | MissingFrame):
            self._add(item)
        else:
            self._sink.append(item)
        return True

    def _fill(self, call: SourceCall, why: str) -> None:
        """Mark what did not come, if that is allowed."""
        if self.n_done == self._request.n_frames:
            raise ServiceTimeout(f"{self._name}: end of acquisition", self._rules.limit, why)
        if self._rules.policy is not LossPolicy.TOLERANT:
            raise self._missing(why)
        call.stop()
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
        self._seen = (
            f"last frame {item.event_id}" if isinstance(item, Frame) else f"frame {item.what} missing"
        )
        self._on_progress(self.n_done, self._seen)

    def _keep_whole_points(self) -> None:
        self.n_done -= self._sink.take_back_partial()
        self._on_progress(self.n_done, "taken again")


def _lost(item: object) -> str | None:
    """Return which frame is lost, or not whole; None if none is."""
    if isinstance(item, MissingFrame):
        return item.what
    return f"{item.event_id} (lacks {item.lacks})" if isinstance(item, Frame) and item.lacks else None

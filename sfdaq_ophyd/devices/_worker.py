"""Threads that do one job after the other, so that none is made per point."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

from ..errors import ServiceTimeout
from ..limits import Limit
from ..wire.frame import Frame, MissingFrame
from ._source import FrameSource, Request, WrittenFile

logger = logging.getLogger(__name__)


JOIN_TIMEOUT = 15.0
"""s within which what was given up must end."""

IDLE = 10.0
"""s without a job after which a thread goes that is not to stay; the next job gets a new one."""


def ends_within(ended: threading.Event, seconds: float) -> bool:
    """Return whether something ends within so many s of time in which we could look; wait for it."""
    limit = Limit(seconds)
    while not limit.wait(ended, seconds):
        if limit.reached():
            return False
    return True


class Worker:
    """One thread, from the first job until `end` or until long idle; jobs are done in the order they came.

    Parameters
    ----------
    name : str
        Of the thread.
    stays : callable
        Returns whether the thread stays however long it is idle, as in a run.
    """

    def __init__(self, name: str, stays: Callable[[], bool] = lambda: False):
        self.name, self._stays = name, stays
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def is_current(self) -> bool:
        """Whether this is called by a job."""
        return threading.current_thread() is self._thread

    def do(self, job: Callable[[], object]) -> threading.Event:
        """Have a job done after those before.

        Parameters
        ----------
        job : callable
            Must not raise.

        Returns
        -------
        Event
            Set once it has ended.
        """
        ended = threading.Event()
        with self._lock:
            self._jobs.put((job, ended))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._jobs,), name=self.name, daemon=True
                )
                self._thread.start()
        return ended

    def leave(self) -> threading.Thread | None:
        """Let the thread go once its job ends, if that ever happens; the next job gets a new one."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._jobs.put(None)
                self._jobs = queue.SimpleQueue()
        return thread

    def end(self, seconds: float = JOIN_TIMEOUT) -> None:
        """Let the thread go, and wait for it. Safe twice, and from a job.

        Parameters
        ----------
        seconds : float
            s at the most.
        """
        current = self.is_current
        thread = self.leave()
        limit = Limit(seconds)
        while thread is not None and not current and thread.is_alive() and not limit.reached():
            thread.join(limit.step(seconds))

    def _run(self, jobs: queue.SimpleQueue) -> None:
        while (entry := self._next(jobs)) is not None:
            job, ended = entry
            try:
                job()
            except Exception:
                logger.exception("%s: a job failed", self.name)
            finally:
                ended.set()
            del entry, job, ended  # nothing of it is kept while waiting for the next one

    def _next(self, jobs: queue.SimpleQueue) -> tuple[Callable[[], object], threading.Event] | None:
        while True:
            try:
                return jobs.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if jobs is self._jobs and jobs.empty() and not self._stays():
                        self._thread = None
                        return None


class Workers:
    """As many workers as there are jobs at once: one, unless a job is to end what another waits for.

    Parameters
    ----------
    name : str
        Of the threads.
    stays : callable
        See `Worker`.
    """

    def __init__(self, name: str, stays: Callable[[], bool]):
        self._name, self._stays = name, stays
        self._idle, self._busy = deque[Worker](), set[Worker]()

    @property
    def n_open(self) -> int:
        """Jobs under way."""
        return len(self._busy)

    def do(self, job: Callable[[], Callable[[], object]]) -> threading.Event:
        """Have a job done at once.

        Parameters
        ----------
        job : callable
            Handles its own errors. What it returns tells its end to whoever waits for it, and is called when
            the worker is free again: the next job is then for the same one.

        Returns
        -------
        Event
            Set once all is over.
        """
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = Worker(self._name, self._stays)

        def work() -> None:
            try:
                tell = job()
            finally:
                self._busy.discard(worker)
                self._idle.append(worker)
            tell()

        self._busy.add(worker)
        return worker.do(work)

    def end(self) -> None:
        """Let those go that have nothing to do. Safe twice, and from a job."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().end()


class SourceCall:
    """One call of ``source.frames`` in a worker's thread, with a bounded queue at its end.

    Parameters
    ----------
    source : FrameSource
        Whose frames.
    request : Request
        How many.
    depth : int
        Items that may wait.
    worker : Worker
        Whose thread iterates.
    """

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

"""Threads that do one job after the other, so that none is made per point."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

from ..limits import Limit

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

    `stays` tells whether the thread stays however long it is idle, as in a run.
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
        """Have a job, which must not raise, done after those before; return what is set at its end."""
        ended = threading.Event()
        with self._lock:
            self._jobs.put((job, ended))
            if self._thread is None:
                self._start()
        return ended

    def _start(self) -> None:
        """Start the thread; if that fails, or is interrupted, the next job gets another."""
        try:
            self._thread = threading.Thread(target=self._run, args=(self._jobs,), name=self.name, daemon=True)
            self._thread.start()
        except BaseException:
            self._let_go()
            raise

    def leave(self) -> threading.Thread | None:
        """Let the thread go once its job ends, if that ever happens; the next job gets a new one."""
        with self._lock:
            return self._let_go()

    def _let_go(self) -> threading.Thread | None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            self._jobs = queue.SimpleQueue()
        return thread

    def end(self, seconds: float = JOIN_TIMEOUT) -> None:
        """Let the thread go, and wait for it so many s at the most. Safe twice, and from a job."""
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
    """As many workers as there are jobs at once: one, unless a job is to end what another waits for."""

    def __init__(self, name: str, stays: Callable[[], bool]):
        self._name, self._stays = name, stays
        self._idle, self._busy = deque[Worker](), set[Worker]()

    @property
    def n_open(self) -> int:
        """Jobs under way."""
        return len(self._busy)

    def do(self, job: Callable[[], Callable[[], object]]) -> threading.Event:
        """Have a job, which handles its own errors, done at once; return what is set once all is over.

        What the job returns tells its end to whoever waits for it, and is called when the worker is free
        again: the next job is then for the same one.
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

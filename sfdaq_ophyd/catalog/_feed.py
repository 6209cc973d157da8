"""From the RunEngine's thread to the catalog: journal, queue, and a thread that writes in batches."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ServiceTimeout
from ..limits import Limit
from .journal import Journal

if TYPE_CHECKING:  # tiled is imported when a catalog is opened
    from ._writer import RunWriter

logger = logging.getLogger(__name__)


class Routes:
    """Follow documents of any number of open, interleaved runs and name the run of each.

    References of a run are forgotten at its stop document.
    """

    def __init__(self):
        self._parents: dict[str, str] = {}  # uid of a descriptor or resource -> uid of its run
        self._children: dict[str, list[str]] = {}

    def run_of(self, name: str, doc: dict) -> str:
        """Return the uid of the run; KeyError if the document refers to nothing seen before."""
        if name == "start":
            self._children[doc["uid"]] = []
            return doc["uid"]
        if name == "stop":
            for child in self._children.pop(doc["run_start"]):
                del self._parents[child]
            return doc["run_start"]
        if name in ("descriptor", "resource", "stream_resource"):
            run = doc["run_start"]
            self._children[run].append(doc["uid"])
            self._parents[doc["uid"]] = run
            return run
        return self._parents[doc["resource"] if name in ("datum", "datum_page") else doc["descriptor"]]


HINT = "The documents are on disk too; catalog.replay() brings in what the catalog lacks"


class Feed:
    """Callback for any number of RunEngines; costs them a line in the journal and a place in a queue.

    A run whose writing fails goes on in the journal alone; the failure is logged once, and other
    runs are not touched.

    Parameters
    ----------
    open_writer : callable
        Returns the writer of a new run; may raise.
    journal : Journal
    period : float
        At most this long, in s, from a document to the catalog, when the server keeps up.
    max_queued : int
        Documents waiting to be written; a run that finds the queue full goes on in the journal alone.
    max_batch : int
        Documents per batch.
    """

    def __init__(
        self,
        open_writer: Callable[[], RunWriter],
        journal: Journal,
        *,
        period: float = 0.25,
        max_queued: int = 100_000,
        max_batch: int = 5000,
    ):
        self._open_writer, self._journal = open_writer, journal
        self._period, self._max_batch = period, max_batch
        self._queue: queue.Queue[tuple[str, str, dict] | threading.Event] = queue.Queue(max_queued)
        self._routes = Routes()
        self._lock = threading.Lock()
        self._writers: dict[str, RunWriter] = {}  # of the thread
        self._lost: set[str] = set()
        self.open_runs: set[str] = set()
        self._closing = threading.Event()
        self._progress = 0
        self._thread = threading.Thread(target=self._work, name="catalog feed", daemon=True)
        self._thread.start()

    def __call__(self, name: str, doc: dict) -> None:
        """Take a document; never raises, never waits for the server."""
        with self._lock:
            try:
                uid = self._routes.run_of(name, doc)
            except KeyError as exc:
                logger.warning("%s document left out: it belongs to no open run (%s)", name, exc)
                return
            if name == "start":
                self.open_runs.add(uid)
            self._journal.write(uid, name, doc)
            try:
                self._queue.put_nowait((uid, name, doc))
            except queue.Full:
                self._lose(uid, f"{self._queue.maxsize} documents wait already")
                if name == "stop":
                    self._forget(uid)

    def went_on(self, *_: object) -> None:
        """Take note of progress: a document was written, or the server answered."""
        self._progress += 1

    def flush(self, timeout: float) -> None:
        """Wait until every document given so far is written or, its run having failed, in the journal.

        Raises
        ------
        ServiceTimeout
            Nothing more was written, and the server answered nothing, for `timeout` s.
        """
        written, queued = threading.Event(), False
        limit, progress = Limit(timeout), self._progress
        while not written.is_set():
            if progress != self._progress:
                progress = self._progress
                limit.restart()
            elif limit.reached():
                raise ServiceTimeout("catalog flush", timeout, f"{self._queue.qsize()} documents wait", HINT)
            if queued:
                limit.wait(written)
                continue
            with contextlib.suppress(queue.Full):
                self._queue.put(written, timeout=limit.step())
                queued = True

    def close(self, timeout: float) -> None:
        """Flush while that goes on, end the thread; what is left is in the journal. Safe twice."""
        if not self._thread.is_alive():
            return
        try:
            self.flush(timeout)
        except ServiceTimeout as exc:
            logger.warning("%s; they are in %s", exc, self._journal.directory)
        self._closing.set()
        try:
            self._queue.put_nowait(threading.Event())
        except queue.Full:
            pass  # the thread has work, and looks up after it
        self._thread.join(timeout)
        self._journal.close()

    def _work(self) -> None:
        written = 0.0
        while not self._closing.is_set():
            batch = self._gather(written + self._period)
            touched: dict[str, RunWriter] = {}
            for item in batch:
                if isinstance(item, tuple) and not self._closing.is_set():
                    self._write(*item, touched)
                    self.went_on()
            for uid, writer in touched.items():
                self._try(uid, writer.flush)
            written = time.monotonic()
            if isinstance(last := batch[-1], threading.Event):
                last.set()

    def _gather(self, until: float) -> list[tuple[str, str, dict] | threading.Event]:
        """Wait for a document, then take all that come until `until`; a stop or a flush ends the wait."""
        batch = [self._queue.get()]
        while len(batch) < self._max_batch:
            if isinstance(last := batch[-1], threading.Event) or last[1] == "stop":
                break
            try:
                batch.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                break
        return batch

    def _write(self, uid: str, name: str, doc: dict, touched: dict[str, RunWriter]) -> None:
        if name == "start":
            self._try(uid, lambda: self._writers.update({uid: self._open_writer()}))
        writer = self._writers.get(uid)
        if writer is not None and self._try(uid, lambda: writer(name, doc)):
            touched[uid] = writer
        if name == "stop":
            touched.pop(uid, None)
            if self._writers.pop(uid, None) is not None:
                self._journal.keep(uid)
            self._forget(uid)

    def _try(self, uid: str, action: Callable[[], object]) -> bool:
        if uid not in self._lost:
            try:
                action()
                return True
            except Exception as exc:
                self._lose(uid, f"{type(exc).__name__}: {exc}")
        self._writers.pop(uid, None)
        return False

    def _lose(self, uid: str, why: str) -> None:
        if uid in self._lost:
            return
        self._lost.add(uid)
        if self._journal.broken(uid):
            logger.error("run %s cannot be written to the catalog or backed up: %s", uid, why)
        else:
            logger.error(
                "run %s cannot be written to the catalog: %s. The scan goes on, its documents are in %s; "
                "catalog.replay() brings them in",
                uid,
                why,
                self._journal.path(uid),
            )

    def _forget(self, uid: str) -> None:
        self._lost.discard(uid)
        self.open_runs.discard(uid)

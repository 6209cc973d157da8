"""What iterates a source, and the queue it fills."""

from __future__ import annotations

import contextlib
import queue
import threading

from ..errors import ServiceTimeout
from ..wire.frame import Frame, MissingFrame
from ._source import FrameSource, Request, WrittenFile
from ._worker import JOIN_TIMEOUT, Worker, ends_within


class Feed:
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
        """Return the next item; `NOTHING` after `timeout` s."""
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
    """Drop an item that nobody will take."""
    if isinstance(item, WrittenFile):
        item.drop()

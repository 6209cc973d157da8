"""The thread that iterates a source, and the queue it fills."""

from __future__ import annotations

import contextlib
import queue
import threading

from ..errors import ServiceTimeout
from ..wire.frame import Frame, MissingFrame
from ._source import FrameSource, Request, WrittenFile

JOIN_TIMEOUT = 15.0
"""s within which a source must end after `discard`."""


class Feed:
    """One call of ``source.frames`` in a thread, with a bounded queue at its end.

    Parameters
    ----------
    source : FrameSource
        Whose frames.
    request : Request
        How many.
    depth : int
        Items that may wait.
    name : str
        Of the device, for the thread.
    """

    END = object()
    """The last item, unless the source raised: then the exception is."""

    def __init__(self, source: FrameSource, request: Request, depth: int, name: str):
        self._source, self._request = source, request
        self._items: queue.Queue = queue.Queue(depth)
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"{name} source", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last: object = self.END
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
        while not self._stopped.is_set():
            try:
                self._items.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def get(self, timeout: float) -> object:
        """Return the next item; raise queue.Empty after `timeout` s."""
        return self._items.get(timeout=timeout)

    def stop(self) -> None:
        """Give up at the source, once, and wait until its thread has gone."""
        try:
            with self._stopping:
                if not self._stopped.is_set():
                    self._stopped.set()
                    with contextlib.suppress(queue.Full):
                        self._items.put_nowait(self.END)  # wakes a reader; a busy one looks at `stopped` next
                    self._source.discard()
        finally:
            self._thread.join(JOIN_TIMEOUT)
        if self._thread.is_alive():
            raise ServiceTimeout(f"{self._thread.name}: giving up the acquisition", JOIN_TIMEOUT)

    def forget_rest(self) -> None:
        """Drop what nobody will take; after `stop`, from the thread that takes."""
        while not self._items.empty():
            forget(self._items.get_nowait())

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()


def forget(item: object) -> None:
    """Drop an item that nobody will take."""
    if isinstance(item, WrittenFile):
        item.drop()

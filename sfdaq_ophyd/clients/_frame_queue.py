"""Frames of a stream for one consumer."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import ServiceTimeout
from ..limits import Limit
from ._stream_frame import StreamFrame

if TYPE_CHECKING:
    from ._stream import FrameStream


class FrameQueue:
    """Frames for one consumer: an iterator that ends when the stream or the queue is closed.

    Parameters
    ----------
    stream : FrameStream
        Where the frames come from.
    timeout : float or None
        Longest wait for a frame, s; None waits until the stream is closed.
    """

    def __init__(self, stream: FrameStream, timeout: float | None):
        self._stream, self._timeout = stream, timeout
        self._frames: queue.SimpleQueue[StreamFrame | None] = queue.SimpleQueue()
        self._remove = stream.subscribe(self._frames.put)

    def get(self, timeout: float | None = None) -> StreamFrame:
        """Return the next frame.

        Raises
        ------
        ServiceTimeout
            None within `timeout` s; the message says what each port sent last.
        EOFError
            The stream was closed.
        """
        limit = Limit(timeout)
        while True:
            try:
                frame = self._frames.get(timeout=None if timeout is None else limit.step(1.0))
                break
            except queue.Empty:
                if limit.reached():
                    state = self._stream.describe_state()
                    raise ServiceTimeout("next frame", timeout, state) from None
        if frame is None:
            self._frames.put(None)
            raise EOFError("the image stream was closed")
        return frame

    def clear(self) -> None:
        """Forget what is waiting."""
        while True:
            try:
                if self._frames.get_nowait() is None:
                    return self._frames.put(None)
            except queue.Empty:
                return None

    def close(self) -> None:
        """Take no more frames; wakes whoever waits. Safe twice."""
        self._remove()
        self._frames.put(None)

    def __iter__(self) -> Iterator[StreamFrame]:
        return self

    def __next__(self) -> StreamFrame:
        try:
            return self.get(self._timeout)
        except EOFError:
            raise StopIteration from None

    def __enter__(self) -> FrameQueue:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

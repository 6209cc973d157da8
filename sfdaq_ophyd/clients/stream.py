"""What all image streams share: a thread that receives, and consumers that iterate or are called."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

import zmq

from ..errors import RequestError, ServiceTimeout
from ..limits import Limit
from ..wire.frame import Frame
from ._intake import Intake
from ._receiver import HIGH_WATER as HIGH_WATER
from ._receiver import Receiver, Wake
from .ring import give_freed_memory_back, keep_freed_memory

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Frame)
"""What a stream makes of its images."""


class FrameQueue(Generic[F]):
    """Frames for one consumer: an iterator that ends when the stream or the queue is closed.

    It waits `timeout` s for a frame; None waits until the stream is closed.
    """

    def __init__(self, stream: FrameStream[F], timeout: float | None):
        self._stream, self._timeout = stream, timeout
        self._frames: queue.SimpleQueue[F | None] = queue.SimpleQueue()
        self._remove = stream.subscribe(self._frames.put)

    def get(self, timeout: float | None = None) -> F:
        """Return the next frame.

        Parameters
        ----------
        timeout : float, optional
            Longest wait, s; None waits until the stream or the queue is closed.

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
                    raise ServiceTimeout("next frame", limit.seconds, state) from None
        if frame is None:
            self._frames.put(None)
            raise EOFError("the image stream was closed")
        return frame

    def clear(self) -> None:
        """Forget what is waiting now, however fast more comes."""
        with contextlib.suppress(queue.Empty):
            for _ in range(self._frames.qsize()):
                if self._frames.get_nowait() is None:
                    self._frames.put(None)
                    return

    def close(self) -> None:
        """Take no more frames; wakes whoever waits. Safe twice."""
        self._remove()
        self._frames.put(None)

    def __iter__(self) -> Iterator[F]:
        return self

    def __next__(self) -> F:
        try:
            return self.get(self._timeout)
        except EOFError:
            raise StopIteration from None

    def __enter__(self) -> FrameQueue[F]:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


CLOSE_TIMEOUT = 10.0
"""s within which the receiving thread must come back from a consumer when the stream is closed."""


def _is_endpoint(endpoint: object) -> bool:
    if not isinstance(endpoint, str) or not endpoint.startswith("tcp://"):
        return isinstance(endpoint, str) and endpoint.startswith(("ipc://", "inproc://"))
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


class FrameStream(ABC, Generic[F]):
    """Base of all streams of images: consumers, counters, opening and closing.

    Constructing it contacts nothing; `open` connects, `close` leaves nothing behind; both are safe twice, and
    a closed stream can be opened again. As a context manager it does both. A stream of another wire format
    gives the numbers of its sockets and, by `_new_intake`, what becomes of its messages.

    Parameters
    ----------
    endpoints : list of str
        One per port.
    timeout : float or None
        Longest wait of an iterator for a frame, s; None waits until the stream is closed.
    socket_type : int
        SUB or PULL.
    max_message : int
        Bytes; a connection that brings a larger message is cut.
    high_water : int
        Messages per port that may wait to be received; more stay with the sender.
    """

    def __init__(
        self,
        endpoints: list[str],
        *,
        timeout: float | None,
        socket_type: int = zmq.SUB,
        max_message: int = 4 << 20,
        high_water: int = HIGH_WATER,
    ):
        for endpoint in endpoints:
            if not _is_endpoint(endpoint):
                raise RequestError("endpoint", endpoint, "an address like 'tcp://host:port'")
        self.endpoints, self._default_timeout = list(endpoints), timeout
        self._socket_type, self._max_message, self._high_water = socket_type, max_message, high_water
        self._intake: Intake = self._new_intake(lambda: None)
        self._consumers: dict[int, Callable[[F | None], None]] = {}
        self._called: Callable | None = None
        self._keys = count()
        self._receiver: Receiver | None = None
        self._lock = threading.Lock()

    @property
    def counters(self) -> Counter[str]:
        """Messages and images since the stream was opened; they stay when it is closed."""
        return self._intake.counters

    @property
    def last_problem(self) -> str:
        """What was wrong with the last message that was not understood."""
        return self._intake.last_problem

    @property
    def connected(self) -> list[bool]:
        """By port, whether its connection is up."""
        receiver = self._receiver
        return [False] * len(self.endpoints) if receiver is None else receiver.connected

    def open(self) -> None:
        """Connect and start receiving; returns at once, connections come up in the background."""
        with self._lock:
            if self._receiver is not None:
                return
            keep_freed_memory()
            wake = Wake()
            intake = self._new_intake(wake.set)
            receiver = Receiver(
                self.endpoints,
                intake,
                wake,
                socket_type=self._socket_type,
                max_message=self._max_message,
                high_water=self._high_water,
            )
            self._intake, self._receiver = intake, receiver
            receiver.thread.start()

    def close(self) -> None:
        """Stop receiving; consumers' iterators end. Safe twice and from any state.

        Raises
        ------
        ServiceTimeout
            A consumer does not come back. Its thread delivers nothing any more, and closes its sockets when
            it does.
        """
        with self._lock:
            receiver = self._receiver
            if receiver is None:
                return
            if receiver.thread is threading.current_thread():
                raise RequestError("close", "from a callback", "a call from another thread")
            self._receiver = None
            receiver.stop()
            limit = Limit(CLOSE_TIMEOUT)
            while receiver.thread.is_alive() and not limit.reached():
                receiver.thread.join(limit.step())
            stuck = self._called if receiver.thread.is_alive() else None
            self._intake.release()
        give_freed_memory_back()
        for consumer in list(self._consumers.values()):
            if consumer is not stuck:
                self._call(consumer, None)
        if receiver.thread.is_alive():
            what = f"closing the image stream {self.endpoints[0]}"
            raise ServiceTimeout(what, CLOSE_TIMEOUT, f"its thread is in {stuck!r}")

    def frames(self, timeout: float | None = None) -> FrameQueue[F]:
        """Return an iterator over the frames from now on; it ends when the stream is closed.

        Parameters
        ----------
        timeout : float, optional
            Longest wait of the iterator for a frame, s. None takes the stream's own, which may be without
            limit.

        Returns
        -------
        FrameQueue
            It keeps all frames that come, until they are taken. `close` it, or use it as a context manager,
            to end the subscription. A frame that does not come in time is a `ServiceTimeout` of the iterator,
            which can be asked again.
        """
        return FrameQueue(self, self._default_timeout if timeout is None else timeout)

    def subscribe(self, callback: Callable[[F | None], None]) -> Callable[[], None]:
        """Have `callback` called with every frame, and with None when the stream closes.

        Parameters
        ----------
        callback : callable
            Runs in the receiving thread and must be quick. What it raises is logged and stops nothing. It
            must not close the stream.

        Returns
        -------
        callable
            Call it to end the subscription. Safe twice.
        """
        key = next(self._keys)
        self._consumers[key] = callback
        return lambda: self._consumers.pop(key, None) and None

    def flush(self, timeout: float = 5.0) -> None:
        """Set a mark: no frame that was sent before this call is delivered after it.

        Costs one look at the sockets, however much lies in them: what is older is dropped as it comes, and so
        are images that have begun with it. Queues of consumers are theirs to clear.

        Parameters
        ----------
        timeout : float
            Longest wait for that look, s.

        Raises
        ------
        RequestError
            The stream is not open.
        ServiceTimeout
            The receiving thread did not come back from a consumer.
        """
        receiver = self._receiver
        if receiver is None:
            raise RequestError("flush", "closed", "an open stream")
        if not receiver.mark(Limit(timeout)):
            what = "having old frames of the image stream dropped"
            raise ServiceTimeout(what, timeout, f"the receiving thread is in {self._called!r}")

    def wait_connected(self, timeout: float = 5.0) -> None:
        """Wait until every endpoint has answered.

        Parameters
        ----------
        timeout : float
            Longest wait, s.

        Raises
        ------
        ServiceTimeout
            Names the endpoints that have not; all of them where the stream was not opened.
        """
        limit = Limit(timeout)
        while not all(self.connected):
            if limit.reached():
                silent = [e for e, there in zip(self.endpoints, self.connected) if not there]
                hint = "Is the receiver's image stream switched on?"
                raise ServiceTimeout(f"connecting to {', '.join(silent)}", timeout, "no answer", hint)
            time.sleep(limit.step(0.005))

    def is_early(self, frame: F | None) -> bool:
        """Whether a port sent nothing yet when a frame was taken, though others did; never of a single port.

        Parameters
        ----------
        frame : Frame or None
            A frame of this stream. None asks for what came since the stream was opened, delivered or not.

        Returns
        -------
        bool
            True where the connection of a port may have come up too late for this frame.
        """
        return False

    def describe_state(self) -> str:
        """Say in one line what came from where, for messages."""
        counts = ", ".join(f"{n} {name}" for name, n in self.counters.items() if n)
        problem = f"; last problem: {self.last_problem}" if self.last_problem else ""
        return f"{counts or 'nothing received'}{problem}"

    def __enter__(self):
        self.open()
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def __iter__(self) -> Iterator[F]:
        return self.frames()

    @abstractmethod
    def _new_intake(self, on_free: Callable[[], object]) -> Intake:
        """Return what takes the messages of one opening; `on_free` is for its buffers."""

    def _deliver(self, frame: F) -> None:
        """Hand a frame to all consumers, in the receiving thread; what an intake calls."""
        consumers = list(self._consumers.values())
        receiver = self._receiver
        if receiver is None or receiver.thread is not threading.current_thread():
            return  # closed, while a consumer did not come back
        if receiver.marked:
            self.counters["flushed"] += 1
            return
        for consumer in consumers:
            self._call(consumer, frame)

    def _call(self, consumer: Callable[[F | None], None], frame: F | None) -> None:
        self._called = consumer
        try:
            consumer(frame)
        except Exception:
            logger.exception("a consumer of %s failed", self.endpoints[0])

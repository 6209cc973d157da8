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

import zmq
from zmq.utils.monitor import parse_monitor_message

from ..errors import RequestError, ServiceTimeout, WireError
from ..wire.json_header import MAX_HEADER_BYTES
from ._frame_queue import FrameQueue
from ._memory import give_freed_memory_back, keep_freed_memory
from ._stream_frame import StreamFrame

logger = logging.getLogger(__name__)

HIGH_WATER = 64
"""Messages per port that may wait to be received; more are lost at the sender."""

_BATCH = 16  # messages of one port before the others get their turn
_TICK = 0.1
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


def _is_endpoint(endpoint: object) -> bool:
    if not isinstance(endpoint, str) or not endpoint.startswith("tcp://"):
        return isinstance(endpoint, str) and endpoint.startswith(("ipc://", "inproc://"))
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


class FrameStream(ABC):
    """Base of `ModuleStream` and `ImageStream`: connections, thread, counters, consumers.

    Constructing it contacts nothing; `open` connects, `close` leaves nothing behind; both are safe twice, and
    a closed stream can be opened again. As a context manager it does both.
    """

    def __init__(self, endpoints: list[str], *, timeout: float | None, socket_type: int = zmq.SUB):
        for endpoint in endpoints:
            if not _is_endpoint(endpoint):
                raise RequestError("endpoint", endpoint, "an address like 'tcp://host:port'")
        self.endpoints, self._default_timeout, self._type = list(endpoints), timeout, socket_type
        self.counters: Counter[str] = Counter()
        self.last_problem = ""
        self._surprised = False
        self.connected = [False] * len(endpoints)
        self._consumers: dict[int, Callable[[StreamFrame | None], None]] = {}
        self._keys = count()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._flushes: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()

    def open(self) -> None:
        """Connect and start receiving; returns at once, connections come up in the background."""
        with self._lock:
            if self._thread is not None:
                return
            keep_freed_memory()
            self._context = zmq.Context()
            try:
                self._wake = self._context.socket(zmq.PAIR)
                self._wake.bind("inproc://wake")
                self._sockets = [self._socket() for _ in self.endpoints]
                self._monitors = [socket.get_monitor_socket(_EVENTS) for socket in self._sockets]
                for socket, endpoint in zip(self._sockets, self.endpoints):
                    self._connect(socket, endpoint)
                self._prepare()
            except BaseException:
                self._context.destroy(linger=0)
                raise
            self._stopping = False
            self._thread = threading.Thread(
                target=self._run, name=f"frames of {self.endpoints[0]}", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop receiving; consumers' iterators end. Safe twice and from any state."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            if thread is threading.current_thread():
                self._thread = thread
                raise RequestError("close", "from a callback", "a call from another thread")
            self._stopping = True
            self._wake_up()
            thread.join(10)
            self._wake.close(0)
            self._context.destroy(linger=0)
            self._release()
        give_freed_memory_back()
        for consumer in list(self._consumers.values()):
            self._call(consumer, None)

    def frames(self, timeout: float | None = None) -> FrameQueue:
        """Return an iterator over the frames from now on; it ends when the stream is closed."""
        return FrameQueue(self, self._default_timeout if timeout is None else timeout)

    def subscribe(self, callback: Callable[[StreamFrame | None], None]) -> Callable[[], None]:
        """Have `callback` called with every frame, and with None when the stream closes.

        It runs in the receiving thread and must be quick. What it raises is logged and stops nothing.

        Returns
        -------
        callable
            Call it to end the subscription. Safe twice.
        """
        key = next(self._keys)
        self._consumers[key] = callback
        return lambda: self._consumers.pop(key, None) and None

    def flush(self, timeout: float = 5.0) -> None:
        """Make sure that no frame which has begun to arrive before this call is delivered after it.

        Reads what lies in the sockets, and gives up images that have begun. Queues of consumers are theirs
        to clear.
        """
        done = threading.Event()
        with self._lock:
            if self._thread is None:
                raise RequestError("flush", "closed", "an open stream")
            self._flushes.put(done)
            self._wake_up()
        if not done.wait(timeout):
            raise ServiceTimeout("reading old frames out of the image stream", timeout, self.describe_state())

    def wait_connected(self, timeout: float = 5.0) -> None:
        """Wait until every endpoint has answered.

        Raises
        ------
        ServiceTimeout
            Names the endpoints that have not.
        """
        deadline = time.monotonic() + timeout
        while not all(self.connected):
            if time.monotonic() > deadline:
                silent = [e for e, there in zip(self.endpoints, self.connected) if not there]
                hint = "Is the receiver's image stream switched on?"
                raise ServiceTimeout(f"connecting to {', '.join(silent)}", timeout, "no answer", hint)
            time.sleep(0.005)

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

    def __iter__(self) -> Iterator[StreamFrame]:
        return self.frames()

    @abstractmethod
    def _prepare(self) -> None:
        """Forget what an earlier opening knew."""

    @abstractmethod
    def _release(self) -> None:
        """Let the image buffers go, once their readers have; counters stay."""

    @abstractmethod
    def _receive(self, port: int, socket: zmq.Socket, header: bytes) -> None:
        """Take the rest of a message of `port` whose first part is `header`; WireError if it is wrong."""

    @abstractmethod
    def _settle(self, read_until: float | None) -> float | None:
        """Do what time demands, given that all messages before `read_until` were read (None: not all).

        Returns when time next demands something, or None.
        """

    @abstractmethod
    def _forget(self, now: float) -> None:
        """Give up images that have begun before `now`."""

    def _socket(self) -> zmq.Socket:
        socket = self._context.socket(self._type)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, HIGH_WATER)
        socket.set(zmq.MAXMSGSIZE, self._max_message())
        socket.set(zmq.RECONNECT_IVL, 100)
        socket.set(zmq.RECONNECT_IVL_MAX, 1000)
        if self._type == zmq.SUB:
            socket.subscribe(b"")
        return socket

    @staticmethod
    def _connect(socket: zmq.Socket, endpoint: str) -> None:
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as exc:
            raise RequestError("endpoint", endpoint, f"an address to connect to ({exc})") from exc

    def _max_message(self) -> int:
        return 4 << 20

    def _deliver(self, frame: StreamFrame) -> None:
        for consumer in list(self._consumers.values()):
            self._call(consumer, frame)

    def _call(self, consumer: Callable, frame: StreamFrame | None) -> None:
        try:
            consumer(frame)
        except Exception:
            logger.exception("a consumer of %s failed", self.endpoints[0])

    def _wake_up(self) -> None:
        with contextlib.suppress(zmq.Again):  # then it is awake, or gone
            self._wake.send(b"", zmq.DONTWAIT)

    def _reconnect(self, port: int) -> None:
        """Connect anew after a connection broke: libzmq does not, if a message was too large."""
        socket, endpoint = self._sockets[port], self.endpoints[port]
        self._drain(port, socket, 2 * HIGH_WATER)
        with contextlib.suppress(zmq.ZMQError):  # it has let go of the address already
            socket.disconnect(endpoint)
        self._connect(socket, endpoint)

    def _run(self) -> None:
        wake = self._context.socket(zmq.PAIR)
        wake.connect("inproc://wake")
        poller = zmq.Poller()
        roles = {wake: None}
        for port, (socket, monitor) in enumerate(zip(self._sockets, self._monitors)):
            roles[socket], roles[monitor] = port, -1 - port
        for socket in roles:
            poller.register(socket, zmq.POLLIN)
        due: float | None = None
        broken: dict[int, float] = {}
        while not self._stopping:
            left = _TICK if due is None else min(_TICK, max(0.0, due - time.monotonic()))
            ready = poller.poll(left * 1000)
            read_until: float | None = time.monotonic()
            for socket, _ in ready:
                port = roles[socket]
                if port is None:
                    socket.recv()
                elif port < 0:
                    event = parse_monitor_message(socket.recv_multipart())["event"]
                    self.connected[-1 - port] = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
                    if event == zmq.EVENT_DISCONNECTED:
                        broken[-1 - port] = time.monotonic() + _TICK
                elif not self._drain(port, socket, _BATCH):
                    read_until = None
            due = self._settle(read_until)
            for port in [port for port, when in broken.items() if when <= time.monotonic()]:
                del broken[port]
                self._reconnect(port)
            if not self._flushes.empty():
                self._flush()
        for socket in self._sockets:
            socket.disable_monitor()
        self.connected = [False] * len(self.endpoints)
        for socket in (wake, *self._sockets):
            socket.close(0)

    def _flush(self) -> None:
        waiting = [self._flushes.get() for _ in range(self._flushes.qsize())]
        for port, socket in enumerate(self._sockets):
            self._drain(port, socket, 2 * HIGH_WATER)
        self._forget(time.monotonic())
        for done in waiting:
            done.set()

    def _drain(self, port: int, socket: zmq.Socket, limit: int) -> bool:
        """Receive up to `limit` messages of one port; True if there are no more.

        Whatever they hold, the stream goes on.
        """
        for _ in range(limit):
            try:
                header = socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return True
            try:
                if len(header) > MAX_HEADER_BYTES:
                    raise WireError(f"header of {len(header)} bytes, expected at most {MAX_HEADER_BYTES}")
                self._receive(port, socket, header)
            except WireError as exc:
                self.counters["unparsable"] += 1
                self.last_problem = f"{self.endpoints[port]}: {exc}"
                logger.debug("%s", self.last_problem)
            except Exception as exc:
                self.counters["unparsable"] += 1
                if not self._surprised:
                    logger.exception("a message of %s was not understood", self.endpoints[port])
                self._surprised = True
                self.last_problem = f"{self.endpoints[port]}: {exc!r}"
            finally:
                while socket.get(zmq.RCVMORE):
                    socket.recv_into(bytearray())
        return False

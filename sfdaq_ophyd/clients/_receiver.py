"""The thread behind an image stream: it alone touches the sockets, from the first message to the last.

A mark divides what is old from what is new. Setting it costs one look at the sockets, whatever lies in them;
each port then decides by what comes. A message is newer than the mark if its own clock says so; where there
is none to be trusted, if its port was seen empty after the mark and no backlog can be on the way (it had been
quiet, or has sent no more since then than our end of the connection holds); and if neither is seen for
twice as many messages as may wait in it, the port is connected anew: what comes then was sent later.

Back-pressure: a message for which there is no buffer is kept, and its port is not read until there is one.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from ..errors import RequestError
from ..limits import Limit, counted_time
from ._intake import Intake, Message
from .ring import Full


class Wake:
    """Ready to be read once `set` was called; it goes when nobody holds it any more."""

    def __init__(self):
        self._counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._counter

    def set(self) -> None:
        """Wake the thread. From anywhere, any number of times."""
        os.eventfd_write(self._counter, 1)

    def clear(self) -> None:
        """Be ready to be woken again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._counter)

    def __del__(self):
        os.close(self._counter)


HIGH_WATER = 64
"""Messages per port that may wait to be received, by default; more stay with the sender."""

QUIET, LONG_QUIET = 5e-3, 1.0
"""s without a message after which none can be waiting on the way; the second where some may have been."""

_BATCH = 16  # messages of one port before the others get their turn
_RECONNECT = 0.1
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


class Mark:
    """A moment; what was sent before is old. `seen` is set once all ports were looked at after it."""

    def __init__(self):
        self.epoch, self.monotonic = time.time(), time.monotonic()
        self.seen = threading.Event()


class Receiver:
    """Sockets and thread of one opening of a stream; see `FrameStream`.

    `intake` takes the messages, and sets `wake`, which wakes the thread, when there is room again.
    """

    def __init__(
        self,
        endpoints: list[str],
        intake: Intake,
        wake: Wake,
        *,
        socket_type: int,
        max_message: int,
        high_water: int,
    ):
        self._endpoints, self._type, self._max_message = endpoints, socket_type, max_message
        self._intake, self.wake, self._high_water = intake, wake, high_water
        self.connected = [False] * len(self._endpoints)
        self.stopping = False
        self._mark = self._followed = Mark()
        self._old: dict[int, int] = {}  # messages since the mark, of ports that may still send older ones
        self._anew: set[int] = set()  # ports that were connected anew since, and have sent nothing yet
        self._held: dict[int, Message] = {}  # by port, what waits for a buffer
        self._dry = [0.0] * len(self._endpoints)  # when all of a port had been read, s of the monotonic clock
        self._n_in_a_row = [0] * len(self._endpoints)  # messages of a port since it was quiet
        self._broken: dict[int, float] = {}
        self._context = zmq.Context()
        try:
            self._sockets = [self._socket() for _ in self._endpoints]
            self._monitors = [socket.get_monitor_socket(_EVENTS) for socket in self._sockets]
            for socket, endpoint in zip(self._sockets, self._endpoints):
                _connect(socket, endpoint)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.thread = threading.Thread(target=self._run, name=f"frames of {self._endpoints[0]}", daemon=True)

    def mark(self, limit: Limit) -> bool:
        """Take what was sent before now for old; whether all ports were looked at after it within `limit`."""
        mark = self._mark = Mark()
        self.wake.set()
        while not mark.seen.is_set() and threading.current_thread() is not self.thread:
            if self._mark is not mark:
                mark = self._mark  # of somebody else, and later
            if limit.reached():
                return False
            limit.wait(mark.seen)
        return True

    @property
    def marked(self) -> bool:
        """Whether there is a mark that the thread has not seen yet: all it has is older."""
        return self._mark is not self._followed

    def stop(self) -> None:
        """Have the thread end, and close everything, at its next turn."""
        self.stopping = True
        self.wake.set()

    def _socket(self) -> zmq.Socket:
        socket = self._context.socket(self._type)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, self._high_water)
        socket.set(zmq.MAXMSGSIZE, self._max_message)
        socket.set(zmq.RECONNECT_IVL, 100)
        socket.set(zmq.RECONNECT_IVL_MAX, 1000)
        if self._type == zmq.SUB:
            socket.subscribe(b"")
        return socket

    def _run(self) -> None:
        self._poller = zmq.Poller()
        self._roles: dict[Any, int | None] = {self.wake.fileno(): None}
        for port, (socket, monitor) in enumerate(zip(self._sockets, self._monitors)):
            self._roles |= {socket: port, monitor: -1 - port}
        for socket in self._roles:
            self._poller.register(socket, zmq.POLLIN)
        try:
            while not self.stopping:
                try:
                    self._receive()
                except Exception as exc:  # nothing that comes from outside ends the thread
                    self._intake.note_problem(0, exc)
                    time.sleep(_RECONNECT)
        finally:
            self.connected[:] = [False] * len(self._endpoints)
            for socket in self._sockets:
                socket.disable_monitor()
            self._held.clear()
            self._mark.seen.set()  # nobody shall wait for it any more
            self._context.destroy(linger=0)

    def _receive(self) -> None:
        poller = self._poller
        wait, looked = float("inf"), 0.0
        unread: set[int] = set()
        while not self.stopping:
            self._follow_mark()
            before, looked = looked, time.monotonic()
            ready, blocked = poller.poll(0), False
            self._followed.seen.set()
            if not ready and wait > 0:
                ready, blocked = poller.poll(None if wait == float("inf") else math.ceil(1000 * wait)), True
                looked = time.monotonic()
            was_unread = unread
            now, unread = counted_time(), set(self._held)
            for socket, _ in ready:
                port = self._roles[socket]
                if port is None:
                    self.wake.clear()
                elif port < 0:
                    self._note(-1 - port, socket)
                elif port not in self._held:
                    empty_until = looked if blocked else max(before, self._dry[port])
                    if not self._take(port, 0.0 if port in was_unread else empty_until, now):
                        unread.add(port)
            if self.stopping:
                return
            wait = min(self._intake.settle(now, unread), self._reconnect_broken())
            held = list(self._held.values())
            unread.difference_update(port for port in list(self._held) if self._take(port, 0.0, now))
            if held:
                moved = held != list(self._held.values())  # then there may be room for the next one too
                wait = 0.0 if moved else min(wait, self._intake.hold_left)

    def _note(self, port: int, monitor: zmq.Socket) -> None:
        event = parse_monitor_message(monitor.recv_multipart())["event"]
        self.connected[port] = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if self.connected[port]:
            self._broken.pop(port, None)
        else:
            self._broken[port] = time.monotonic() + 2 * _RECONNECT

    def _reconnect_broken(self) -> float:
        """Connect anew where libzmq did not, as after too large a message; return s until the next look."""
        if not self._broken:
            return float("inf")
        now = time.monotonic()
        for port, when in list(self._broken.items()):
            if when <= now:
                self._broken[port] = now + _RECONNECT
                if port not in self._held and not self._sockets[port].poll(0):
                    self._reconnect(port)
                    del self._broken[port]
        return max(0.0, min(self._broken.values(), default=float("inf")) - now)

    def _reconnect(self, port: int) -> None:
        """Connect anew, and give up what lies in the socket."""
        socket, endpoint = self._sockets[port], self._endpoints[port]
        with contextlib.suppress(zmq.ZMQError):  # it has let go of the address already
            socket.disconnect(endpoint)
        _connect(socket, endpoint)
        self._n_in_a_row[port] = 0

    def _take(self, port: int, empty_until: float, now: float) -> bool:
        """Take a batch of messages of one port, which was empty until then; True if there are no more."""
        socket = self._sockets[port]
        backlog = self._n_in_a_row[port] > self._high_water
        if empty_until - self._dry[port] >= (LONG_QUIET if backlog else QUIET):
            self._n_in_a_row[port], backlog = 0, False
        quiet_until = 0.0 if backlog else empty_until
        for _ in range(_BATCH):
            if self.stopping:
                return False
            message = self._held.get(port)
            if message is None:
                try:
                    parts = socket.recv_multipart(zmq.DONTWAIT, copy=False)
                except zmq.Again:
                    self._dry[port] = time.monotonic()
                    return True
                message = Message(port, parts, time.time(), now, quiet_until)
                quiet_until = 0.0
                self._n_in_a_row[port] += 1
            there_is_room = self._handle(message)
            if there_is_room == (port in self._held):
                self._hold(message, not there_is_room)
            if not there_is_room:
                return False
        return False

    def _hold(self, message: Message, held: bool) -> None:
        """Do not read a port as long as its message waits for a buffer."""
        if held:
            self._held[message.port] = message
        else:
            del self._held[message.port]
        self._poller.modify(self._sockets[message.port], 0 if held else zmq.POLLIN)

    def _handle(self, message: Message) -> bool:
        """Take one message in, whatever it holds; False if there is no room for it as yet."""
        try:
            self._follow_mark()
            if message.head is None:
                if not self._intake.announce(message):
                    return True
                if message.port in self._old or self._anew:
                    self._compare_with_mark(message)
            self._intake.put(message)
        except Full:
            return False
        except Exception as exc:
            self._intake.note_problem(message.port, exc)
        return True

    def _follow_mark(self) -> None:
        if self._mark is not self._followed:
            self._followed = self._mark
            self._old = dict.fromkeys(range(len(self._endpoints)), 0)
            self._anew.clear()
            self._intake.begin_mark()

    def _compare_with_mark(self, message: Message) -> None:
        """Decide whether a port has come to what is newer than the mark."""
        port = message.port
        if not self._anew and self._newer(message):
            del self._old[port]
            return
        # What came on the old connection of a port is gone: images are whole from its next message on.
        self._intake.flush_through(message)
        if port in self._anew:
            self._anew.remove(port)
        elif port in self._old:
            self._old[port] += 1
            if self._old[port] >= 2 * self._high_water:
                del self._old[port]
                if self._type == zmq.SUB:
                    self._reconnect(port)
                    self._anew.add(port)

    def _newer(self, message: Message) -> bool:
        taken = self._intake.taken(message)
        if taken is None:
            return message.quiet_until >= self._followed.monotonic
        return taken >= self._followed.epoch


def _connect(socket: zmq.Socket, endpoint: str) -> None:
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as exc:
        raise RequestError("endpoint", endpoint, f"an address to connect to ({exc})") from exc

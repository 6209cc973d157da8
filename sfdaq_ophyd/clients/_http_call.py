"""One HTTP exchange with an end: whatever the peer does, it is over when the time of its call is.

At its limit a call's socket is shut down from outside. That ends a wait wherever it stands (TLS, status line,
headers, "100 Continue", chunks, body), and a drip of single bytes as well as silence.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import ssl
import threading
import time
import types
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from ..limits import BEAT, Alarm, Limit

CONNECT_TIMEOUT = 2.0
"""s to open a connection to one address."""

LONGEST_IDLE = 4.0
"""s a connection is kept unused. Servers close theirs after 5 s or later, so never under our request."""

LOOK_UP_PERIOD = 60.0
"""s the addresses of a host hold; they are looked up anew when none of them can be reached."""

T = TypeVar("T")


class NotConnected(Exception):
    """No connection came about: nothing was sent."""


class Call:
    """One call under way, over all its repeats and redirects, with its limit in s.

    `ended` says why it was ended from outside; it is empty while it was not.
    """

    LATE = "no end in time"

    def __init__(self, seconds: float):
        self.limit = Limit(seconds)
        self.ended = ""
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._alarm = Alarm(seconds, self._late)

    def progress(self) -> None:
        """Begin its limit anew: there was progress, and its end is not known."""
        self.limit.restart()

    def _late(self) -> None:
        if self.limit.left > 0:
            self._alarm = Alarm(self.limit.left, self._late)
        else:
            self.end(self.LATE)

    def end(self, why: str) -> None:
        """End it now: whoever waits for its reply gets an error."""
        with self._lock:
            self.ended = self.ended or why
            self._shut()

    def uses(self, sock: socket.socket | None) -> None:
        """Say which socket it waits on; None: on none any more, and nobody will touch the last one."""
        with self._lock:
            self._socket = sock
            if self.ended:
                self._shut()

    def close(self) -> None:
        """Say that it is over. Safe twice."""
        self._alarm.cancel()
        self.uses(None)

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # not connected any more
                self._socket.shutdown(socket.SHUT_RDWR)


class Connections:
    """Connections to one server. Contacts nothing until the first exchange; safe from several threads.

    Requests call the host by `name`, with the port where it is not the usual one. Connections that one is
    to `keep` are used again.
    """

    def __init__(self, host: str, port: int, name: str, *, tls: bool = False, keep: bool = True):
        self._host, self._port, self._name, self._keep = host, port, name, keep
        self._context = ssl.create_default_context() if tls else None
        self._lock = threading.Lock()
        self._known: tuple[list, float] | None = None
        self._idle: list[tuple[_Connection, float]] = []

    def exchange(
        self,
        call: Call,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        read: Callable[[http.client.HTTPResponse], T],
    ) -> T:
        """Send one request; return what `read`, given the reply up to its head, makes of its body.

        Raises
        ------
        NotConnected
            Nothing was sent.
        OSError, http.client.HTTPException
            Everything else that can go wrong; `call.ended` tells whether we were the cause.
        """
        request = self._request(method, target, headers, body)
        try:
            connection = self._take(call)
        except OSError as exc:
            raise NotConnected(exc.strerror or str(exc)) from exc
        keep, response = False, None
        try:
            connection.sock.sendall(request)
            response = _WholeHead(connection.sock, method=method)
            response.begin()
            unsized, reply = response.length is None, read(response)
            if unsized and call.ended:
                raise ConnectionAbortedError("what ended the reply was our own end")
            keep = self._keep and not response.will_close
            return reply
        finally:
            call.uses(None)
            if response is not None:
                response.close()
            if keep:
                with self._lock:
                    self._idle.append((connection, time.monotonic()))
            else:
                connection.close()

    def close(self) -> None:
        """Close the connections not in use. Safe twice; the next exchange opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """Return a request whole: it goes out in one piece."""
        lines = {"Host": self._name, "Accept-Encoding": "identity", **headers}
        if not self._keep:
            lines["Connection"] = "close"
        if body is not None or method in ("PUT", "POST"):
            lines["Content-Length"] = str(len(body or b""))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")

    def _take(self, call: Call) -> _Connection:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection, since = self._idle.pop()
            if time.monotonic() - since < LONGEST_IDLE and not connection.has_news():
                call.uses(connection.guard)
                return connection
            connection.close()
        connection = _Connection(self._connect(call))
        try:
            call.uses(connection.guard)
            if self._context is not None:
                connection.sock = self._context.wrap_socket(connection.sock, server_hostname=self._host)
            return connection
        except BaseException:
            call.uses(None)
            connection.close()
            raise

    def _connect(self, call: Call) -> socket.socket:
        problem: OSError = TimeoutError("timed out")
        for family, kind, protocol, _, address in self._addresses(call):
            left = min(CONNECT_TIMEOUT, call.limit.left)
            if call.ended or not left:
                break
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(left)
                sock.connect(address)
                sock.settimeout(None)  # from here on it is the call that ends a wait
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except BaseException as exc:
                sock.close()
                if not isinstance(exc, OSError):
                    raise
                problem = exc
        self._known = None
        raise problem

    def _addresses(self, call: Call) -> list:
        """Look the host up; a name server that does not answer costs the call's time and no more."""
        known = self._known
        if known is not None and time.monotonic() - known[1] < LOOK_UP_PERIOD:
            return known[0]
        found: list = []

        def look_up() -> None:
            try:
                found.append(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
            except Exception as exc:  # unknown, or no name at all
                found.append(exc if isinstance(exc, OSError) else OSError(str(exc)))

        thread = threading.Thread(target=look_up, name=f"look up {self._host}", daemon=True)
        thread.start()
        while not found and not call.ended:
            thread.join(BEAT)
        answer = found[0] if found else TimeoutError(f"looking up {self._host} timed out")
        if isinstance(answer, OSError):
            raise answer
        self._known = (answer, time.monotonic())
        return answer


class _WholeHead(http.client.HTTPResponse):
    """A reply whose head must end with an empty line; http.client takes the end of the connection for one."""

    def begin(self) -> None:
        reader, last = self.fp, b""

        def readline(limit: int = -1) -> bytes:
            nonlocal last
            last = reader.readline(limit)
            return last

        self.fp = cast(io.BufferedReader, types.SimpleNamespace(readline=readline, close=reader.close))
        try:
            super().begin()
        finally:
            self.fp = self.fp and reader
        if last.strip(b"\r\n") or not last:
            raise http.client.IncompleteRead(last)


class _Connection:
    """A socket, and a second handle of it, by which a wait is ended: nobody closes that under our hands."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        try:
            self.guard = sock.dup()
        except OSError:
            sock.close()
            raise

    def has_news(self) -> bool:
        """Whether there is anything to read: it was closed or shut down, or holds what nobody asked for."""
        poll = select.poll()
        poll.register(self.guard, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it. Safe twice."""
        self.sock.close()
        self.guard.close()

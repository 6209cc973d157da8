"""One HTTP exchange with an end: whatever the peer does, it is over when the time of its call is.

At its limit a call's socket is shut down from outside. That ends a wait wherever it stands (TLS, status line,
headers, "100 Continue", chunks, body), and a drip of single bytes as well as silence.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from http.client import HTTPMessage
from typing import NamedTuple

from ..errors import WireError
from ..limits import BEAT, Alarm, Limit

CONNECT_TIMEOUT = 2.0
"""s to open a connection to one address."""

LONGEST_IDLE = 4.0
"""s a connection is kept unused. Servers close theirs after 5 s or later, so never under our request."""

LOOK_UP_PERIOD = 60.0
"""s the addresses of a host hold; they are looked up anew when none of them can be reached."""

PIECE = 2**20
"""Bytes at the most of a piece of a body that is taken piece by piece, or whose length is not told."""

Receive = Callable[["Head"], Callable[[memoryview], object] | None]
"""Given the head of a reply, returns what takes its body piece by piece; None has it read as usual."""


class NotConnected(Exception):
    """No connection came about: nothing was sent."""


class CutShort(ConnectionError):
    """The connection ended before the body did."""


class Head(NamedTuple):
    """Status code and headers of a reply; names of headers are case-insensitive."""

    status_code: int
    headers: HTTPMessage


class Call:
    """One call under way, over all its repeats and redirects.

    Parameters
    ----------
    seconds : float
        Its limit, in the time in which this process could look.

    Attributes
    ----------
    limit : Limit
    ended : str
        Why it was ended from outside; empty while it was not.
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

    Parameters
    ----------
    host : str
    port : int
    name : str
        As requests call the host, with the port where it is not the usual one.
    tls : bool
    keep : bool
        Use a connection again.
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
        *,
        most: int,
        take: Callable[[int], memoryview] | None = None,
        receive: Receive | None = None,
    ) -> tuple[Head, memoryview]:
        """Send one request, and read its reply whole.

        Parameters
        ----------
        most : int
            Largest body, bytes.
        take : callable, optional
            Returns a buffer of so many bytes: a body of status 200 is read straight into it.
        receive : Receive, optional
            Takes the body piece by piece, however large; each piece begins the limit of `call` anew.

        Returns
        -------
        Head, memoryview
            The body, in what `take` gave if that was called; empty where it was taken piece by piece.

        Raises
        ------
        NotConnected
            Nothing was sent.
        WireError
            The body is too large, or is not in the encoding it says.
        OSError, http.client.HTTPException
            Everything else that can go wrong; `call.ended` tells whether we were the cause.
        """
        request = self._request(method, target, headers, body)
        try:
            connection = self._take(call)
        except OSError as exc:
            raise NotConnected(exc.strerror or str(exc)) from exc
        keep, response, content = False, None, memoryview(b"")
        try:
            connection.sock.sendall(request)
            response = http.client.HTTPResponse(connection.sock, method=method)
            response.begin()
            head, unsized = Head(response.status, response.headers), response.length is None
            if receive is not None and (into := receive(head)) is not None:
                _pass_on(response, into, call)
            else:
                content = _content(response, most, take)
            if unsized and call.ended:
                raise ConnectionAbortedError("what ended the reply was our own end")
            keep = self._keep and not response.will_close
            return head, content
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


def _content(
    response: http.client.HTTPResponse, most: int, take: Callable[[int], memoryview] | None
) -> memoryview:
    """Read a body whole, an image of known length into the buffer that `take` gives."""
    length, noun = response.length, "a reply" if take is None else "an image"
    if length is None:
        pieces = bytearray()
        while piece := response.read1(PIECE):
            pieces += piece
            if len(pieces) > most:
                raise WireError(f"{noun} of unknown length exceeds {most} bytes")
        body = memoryview(pieces)
    elif length > most:
        raise WireError(f"{noun} of {length} bytes exceeds {most} bytes")
    else:
        body = take(length) if take and response.status == 200 and length else memoryview(bytearray(length))
        _check_whole(response.readinto(body) if length else 0, length)
    encoding = _encoding(response)
    return body if length == 0 or encoding == "identity" else _decoded(body, encoding, most)


def _pass_on(response: http.client.HTTPResponse, into: Callable[[memoryview], object], call: Call) -> None:
    """Hand a body on as it comes."""
    if (encoding := _encoding(response)) != "identity":
        raise WireError(f"a reply in the encoding {encoding[:40]!r}, expected none")
    length, n_bytes = response.length, 0
    while piece := response.read1(PIECE):  # what is there, however little
        into(memoryview(piece))
        n_bytes += len(piece)
        call.progress()
    _check_whole(n_bytes, length)


def _encoding(response: http.client.HTTPResponse) -> str:
    return response.headers.get("Content-Encoding", "identity").strip().lower()


def _check_whole(n_bytes: int, length: int | None) -> None:
    if length is not None and n_bytes < length:
        raise CutShort(f"the connection ended after {n_bytes} of {length} bytes")


def _decoded(body: memoryview, encoding: str, most: int) -> memoryview:
    """Undo a compression nobody asked for; some gateways compress all the same."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise WireError(f"a reply in the encoding {encoding[:40]!r}, expected none")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        content = unpacker.decompress(body, most)
    except zlib.error as exc:
        raise WireError(f"a reply that is not {encoding} as it says ({exc})") from exc
    if not unpacker.eof:
        raise WireError(f"a reply in {encoding} that ends early, or exceeds {most} bytes")
    return memoryview(content)

"""Fetch monitor images: one buffer per frame, filled straight from the socket."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

from ..errors import ServiceRefused, ServiceTimeout, ServiceUnreachable, WireError
from ..wire import simplon, tiff
from ._buffers import BufferPool
from ._http import CONNECT_TIMEOUT

LARGEST_IMAGE = 256 * 2**20
"""A longer body is refused, bytes. A 32-bit 16M frame has 72.6 MB."""

LARGEST_ERROR = 64 * 2**10

NO_IMAGE = (204, 408)
"""Codes that say "no image now"; both are normal."""


@dataclass(frozen=True, eq=False)
class MonitorFrame:
    """One image of the monitor.

    Attributes
    ----------
    image : ndarray of uint8, uint16 or uint32, shape (y, x)
        Nobody else uses its memory.
    series_id, image_id : int or None
        None where the TIFF has no private IFD (API 1.6).
    time_ns : int or None
        What the detector says, ns since the epoch: the time of the frame, or of the series on some firmware.
    received_ns : int
        When the last byte was here, by this host's clock, ns since the epoch.
    private : dict
        All values of the private IFD (`sfdaq_ophyd.wire.tiff.PRIVATE_TAGS`).
    """

    image: np.ndarray
    series_id: int | None
    image_id: int | None
    time_ns: int | None
    received_ns: int
    private: dict = field(default_factory=dict)

    @property
    def timestamp(self) -> float | None:
        """`time_ns` as seconds since the epoch; resolves 0.24 us."""
        return None if self.time_ns is None else self.time_ns / 1e9

    @property
    def event_id(self) -> str:
        """``"<series>_<image>"``; WireError if the image came without ids."""
        if self.series_id is None or self.image_id is None:
            raise WireError(
                "the monitor's TIFF has no private IFD (tag 51192), so neither series nor image number "
                "(API 1.6); Eiger(legacy_ids='status') or 'local' says where the ids shall come from"
            )
        return simplon.event_id(self.series_id, self.image_id)


class ImageFetcher:
    """GET requests for images of one server, over kept connections. Safe from several threads.

    Parameters
    ----------
    url : str
        ``http://host[:port]``.
    timeout : float
        s for the transfer of one image, on top of the time the server may wait.
    """

    def __init__(self, url: str, timeout: float):
        self._url, self._timeout = url, timeout
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connect = lambda: kind(parts.hostname, parts.port, timeout=min(CONNECT_TIMEOUT, timeout))
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._n_interrupts = 0
        self._buffers = BufferPool()

    def fetch(self, path: str, wait: float = 0.0) -> MonitorFrame | None:
        """Return the image at `path`; None if the server says that there is none now.

        Raises
        ------
        WireError
            The body is not the TIFF of an image, is cut short, or larger than `LARGEST_IMAGE`.
        ServiceRefused, ServiceTimeout, ServiceUnreachable
        """
        what = f"GET {path}"
        limit = wait + self._timeout
        deadline = time.monotonic() + limit
        connection = self._take()
        whole = False
        try:
            body, content_type = self._exchange(connection, path, what, deadline)
            whole = True
        except TimeoutError as exc:
            raise ServiceTimeout(what, limit, f"no whole reply from {self._url}") from exc
        except http.client.HTTPException as exc:
            raise ServiceUnreachable(what, url=self._url, reason=f"broken reply: {exc!r}") from exc
        except OSError as exc:
            raise ServiceUnreachable(what, url=self._url, reason=exc) from exc
        finally:
            self._give_back(connection, keep=whole)
        return None if body is None else _decode(body, content_type, f"{what} of {self._url}")

    def interrupt(self) -> None:
        """Break off the requests under way: they raise `ServiceUnreachable` at once."""
        with self._lock:
            self._n_interrupts += 1
            for connection in self._busy:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connections not in use. Safe twice; the next request opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self._buffers.clear()

    def _take(self) -> http.client.HTTPConnection:
        with self._lock:
            connection = self._idle.pop() if self._idle else self._connect()
            self._busy.add(connection)
        return connection

    def _give_back(self, connection: http.client.HTTPConnection, *, keep: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if keep and connection.sock is not None:
                self._idle.append(connection)
                return
        connection.close()

    def _exchange(self, connection, path, what, deadline):
        reply = self._send(connection, path, deadline)
        if reply.status in NO_IMAGE:
            reply.read(LARGEST_ERROR)
            reply.close()
            return None, ""
        if reply.status != 200:
            words = reply.read(LARGEST_ERROR).decode("utf-8", "replace")
            raise ServiceRefused(what, url=self._url, said=words, code=reply.status)
        body = self._read_whole(reply, connection.sock, deadline)
        return body, reply.headers.get("Content-Type", "")

    def _read_whole(self, reply: http.client.HTTPResponse, sock: socket.socket | None, deadline: float):
        if reply.length is None:
            body = reply.read(LARGEST_IMAGE + 1)
            if len(body) > LARGEST_IMAGE:
                raise WireError(f"an image of more than {LARGEST_IMAGE} bytes")
            return np.frombuffer(body, "u1")
        if reply.length > LARGEST_IMAGE:
            raise WireError(f"an image of {reply.length} bytes, more than {LARGEST_IMAGE}")
        body = self._buffers.take(reply.length)
        view, n_read = memoryview(body), 0
        while n_read < len(view):
            if time.monotonic() > deadline:
                raise TimeoutError
            n = reply.fp.readinto1(view[n_read:])
            if not n:
                raise WireError(f"the connection ended after {n_read} of {len(view)} bytes of an image")
            n_read += n
        if sock is not None and not reply.will_close:
            reply.close()
        return body

    def _send(self, connection, path, deadline) -> http.client.HTTPResponse:
        kept, n_interrupts = connection.sock is not None, self._n_interrupts
        try:
            return _request(connection, path, deadline)
        except (ConnectionError, http.client.BadStatusLine):
            if not kept or n_interrupts != self._n_interrupts:
                raise
        connection.close()  # the server had closed the kept connection: the request was not served
        connection.timeout = min(CONNECT_TIMEOUT, max(0.01, deadline - time.monotonic()))
        return _request(connection, path, deadline)


def _request(connection, path: str, deadline: float) -> http.client.HTTPResponse:
    if connection.sock is None:
        connection.connect()
    connection.sock.settimeout(max(0.01, deadline - time.monotonic()))
    connection.request("GET", path)
    return connection.getresponse()


def _decode(body: np.ndarray, content_type: str, what: str) -> MonitorFrame:
    received = time.time_ns()
    try:
        frame = tiff.decode(body)
    except WireError as exc:
        raise WireError(f"{what}: {exc} (content type {content_type!r}, {len(body)} bytes)") from exc
    return MonitorFrame(frame.image, frame.series_id, frame.image_id, frame.time_ns, received, frame.private)

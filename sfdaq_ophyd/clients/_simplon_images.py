"""Fetch monitor images: one buffer per frame, filled straight from the socket."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np

from ..errors import ServiceRefused, ServiceUnreachable, WireError
from ..wire import simplon, tiff
from ._http import CutShort, HttpClient, Reply
from .ring import Ring

LARGEST_IMAGE = 256 * 2**20
"""A longer body is refused, bytes. A 32-bit 16M frame has 72.6 MB."""

N_BUFFERS = 4
"""Images whose memory is used again: fresh pages cost a third of a fetch."""

ON_THE_WAY = 0.05
"""s that a request may be on its way, before the server begins to wait."""

NO_IMAGE = (204, 408)
"""Codes that say "no image now"; both are normal."""


@dataclass(frozen=True, eq=False)
class MonitorFrame(tiff.TiffFrame):
    """One image of the monitor; nobody else uses its memory.

    Attributes
    ----------
    received_ns : int
        When the last byte was here, by this host's clock, ns since the epoch.
    """

    received_ns: int = 0

    @property
    def timestamp(self) -> float | None:
        """`time_ns` as seconds since the epoch; resolves 0.24 us."""
        return None if self.time_ns is None else self.time_ns / 1e9

    @property
    def series_uid(self) -> str:
        """The detector's unique id of the series, a ULID; empty where the image does not tell."""
        uid = self.private.get("series_unique_id")
        return uid[:26] if isinstance(uid, str) else ""

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
    """GET requests for images of one server, over connections of their own. Safe from several threads.

    Parameters
    ----------
    url : str
        As for `SimplonClient`, without a module.
    timeout : float
        s for the transfer of one image, on top of the time the server may wait.
    """

    def __init__(self, url: str, timeout: float):
        self._http = HttpClient(url, name="SIMPLON", timeout=timeout)
        self._lock = threading.Lock()
        self._asked_until = 0.0  # s of the monotonic clock: till then the server may wait for an image for us
        self._ring: Ring | None = None

    def fetch(self, path: str, wait: float = 0.0) -> MonitorFrame | None:
        """Return the image at `path`; None if the server says that there is none now.

        Asked once: an image taken by a reply that was lost is lost.

        Raises
        ------
        WireError
            The body is not the TIFF of an image, is cut short, or larger than `LARGEST_IMAGE`.
        ServiceRefused, ServiceTimeout, ServiceUnreachable
        """

        def read(reply: Reply) -> MonitorFrame | None:
            self._asked_until = 0.0
            if reply.code in NO_IMAGE:
                return None
            if reply.code != 200:
                raise ServiceRefused(f"GET {path}", url=self._http.url, said=reply.text, code=reply.code)
            return _decode(reply.content, reply.content_type, f"GET {path} of {self._http.url}")

        self._asked_until = time.monotonic() + wait + ON_THE_WAY
        try:
            return self._http.request(
                "GET",
                path,
                timeout=wait + self._http.timeout,
                idempotent=True,
                attempts=1,
                max_reply=LARGEST_IMAGE,
                take=self._buffer,
                read=read,
            )
        except ServiceUnreachable as exc:
            if not isinstance(exc.__cause__, CutShort) or exc.reason != str(exc.__cause__):
                raise
            raise WireError(f"{exc.what}: {exc.reason} of an image") from exc

    def interrupt(self) -> None:
        """Break off the requests under way: they raise `ServiceUnreachable` at once."""
        self._http.interrupt()

    def wait_out(self) -> None:
        """Return once the server waits no more on behalf of a request that was broken off."""
        time.sleep(max(0.0, self._asked_until - time.monotonic()))

    def close(self) -> None:
        """Close the connections not in use. Safe twice; the next request opens new ones."""
        self._http.close()
        self._ring = None

    def _buffer(self, n_bytes: int) -> memoryview:
        """Return memory that nobody else looks at; while its image is held it is not used again."""
        with self._lock:
            if self._ring is None or self._ring.shape != (1, n_bytes):
                self._ring = Ring((1, n_bytes), "u1", N_BUFFERS)
            buffer = self._ring.take()
        return (np.empty((1, n_bytes), "u1") if buffer is None else buffer).data.cast("B")


def _decode(body: memoryview, content_type: str, what: str) -> MonitorFrame:
    received = time.time_ns()
    try:
        frame = tiff.decode(body)
    except WireError as exc:
        raise WireError(f"{what}: {exc} (content type {content_type!r}, {len(body)} bytes)") from exc
    return MonitorFrame(**vars(frame), received_ns=received)

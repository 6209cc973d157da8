"""The UDP simulator some installations have behind ``/simulation``."""

from __future__ import annotations

import time

from .driver import ServiceError
from .source import ImageSource

RATE = 20.0
"""Images per second it makes."""

ADDRESS = "http://127.0.0.1:5001"


class UdpSimulator:
    """READY or STREAMING; present or not.

    Parameters
    ----------
    present : bool
        An absent one makes every request fail as the proxy of the service does.
    source : ImageSource
        Streams while it does.
    """

    def __init__(self, present: bool, source: ImageSource):
        self._present, self._source = present, source
        self._started = self._n = None

    def status(self) -> dict:
        """Return status and number of images; ServiceError if absent."""
        if not self._present:
            raise ServiceError(f"Cannot communicate with API on {ADDRESS}.")
        n = self._n or 0
        if self._started is not None:
            n = int((time.monotonic() - self._started) * RATE)
        return {
            "status": "READY" if self._started is None else "STREAMING",
            "stats": {"n_generated_images": n},
        }

    def start(self) -> dict:
        """Stream, the counter anew."""
        self._check("start")
        self._started = time.monotonic()
        self._source.burst(2**31, RATE)
        return self.status()

    def stop(self) -> dict:
        """Stop; the counter stays."""
        self._check("stop")
        self._n, self._started = self.status()["stats"]["n_generated_images"], None
        self._source.silence()
        return self.status()

    def _check(self, what: str) -> None:
        if not self._present:
            raise ServiceError(
                f"HTTPConnectionPool(host='127.0.0.1', port=5001): Max retries exceeded with url: /{what} "
                "(Caused by NewConnectionError(\"HTTPConnection(host='127.0.0.1', port=5001): Failed to "
                'establish a new connection: [Errno 111] Connection refused"))'
            )

"""Misbehaviour by name."""

from __future__ import annotations

import threading
from collections import deque

FAULTS = {
    "drop": "the next frame never reaches the monitor",
    "delay": "the next matching request is answered after `seconds` (default 1); `path` selects by substring",
    "hang": "the next matching request is never answered; `path` selects by substring",
    "error": "the next matching request is answered with `code` (default 500) and `text`; `path` selects",
    "cut": "the connection of the next matching request is closed without a reply; `path` selects",
    "cut_body": "the connection is closed in the middle of the next image",
    "truncate": "the next image is a whole reply, its TIFF cut to `keep` (default half) of its bytes",
    "content_type": "the next image is answered with `content_type` (default text/html) and an HTML body",
    "body": "the next image is a whole reply of the bytes `body`",
    "no_image": "the next request for an image is answered 408",
    "wrong_series": "the next frame carries another series number",
    "same_time": "every frame of the next series carries the time of the series",
    "no_private_ifd": "the next frame has no private IFD",
    "out_of_order": "the next frame reaches the monitor only after `after` (default 1) that follow it",
    "late_last": "the last frame of the next trigger comes out only after disarm",
    "detector_error": "the detector goes to state `error` at the next trigger",
    "restart": "the service restarts before it answers the next matching request; `path` selects",
}
"""What `fail_next` takes: name and meaning. Each takes ``count`` (default 1): how often."""


class Faults:
    """Faults waiting to happen. Safe from any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self._pending: dict[str, deque[dict]] = {name: deque() for name in FAULTS}

    def add(self, what: str, *, count: int = 1, **details) -> None:
        """Misbehave `count` times; ValueError for a name not in `FAULTS`."""
        if what not in FAULTS:
            raise ValueError(f"unknown fault {what!r}: expected one of {', '.join(FAULTS)}")
        with self._lock:
            self._pending[what].extend({"what": what, **details} for _ in range(count))

    def take(self, what: str, path: str = "") -> dict | None:
        """Return the details of the next fault of this name that fits `path`, and use it up."""
        with self._lock:
            for details in self._pending[what]:
                if details.get("path", "") in path:
                    self._pending[what].remove(details)
                    return details
        return None

    def clear(self) -> None:
        """Forget every fault that has not happened."""
        with self._lock:
            for pending in self._pending.values():
                pending.clear()

"""What all services share: a port that is taken, who may ask, and a log of requests that ends somewhere."""

from __future__ import annotations

import ipaddress
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from ..errors import ServiceUnreachable

STATUS = 403
"""HTTP status of a refusal."""


def not_opened(what: str, url: str, reason: object) -> ServiceUnreachable:
    """Return the error for a port that cannot be opened, with what a person does about it."""
    error = ServiceUnreachable(f"start of the simulated {what}", url=url, reason=reason)
    error.advice = "Does another program have this port? End it, or choose other ports: `--port-base`"
    return error


def refusal(method: str, headers: Mapping[str, str]) -> str | None:
    """Return why a request is refused; None if it may come from a client of this machine.

    A name other than ``localhost`` in Host means that some name server led a browser here, a foreign Origin
    that a page elsewhere did; either may be missing, as from clients that are no browsers. Preflights
    (OPTIONS) are never answered.
    """
    if method.upper() == "OPTIONS":
        return "no cross-origin requests are served here"
    host, origin = headers.get("Host"), headers.get("Origin")
    if host is not None and not _is_local(f"//{host}"):
        return f"Host {host[:100]!r} is not served here: ask for localhost or an address"
    if origin is not None and not _is_local(origin):
        return f"requests of pages from {origin[:100]!r} are not served here"
    return None


def _is_local(url: str) -> bool:
    """Tell whether the host of a URL is localhost or spelled as an address."""
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


Entry = TypeVar("Entry")

ENTRY = 1000
"""Bytes that an entry counts for on top of what it was told to have."""


class BoundedLog(Generic[Entry]):
    """Keep the latest entries, as many as fit in `n_bytes`. Safe to use from several threads."""

    def __init__(self, n_bytes: int = 32 << 20):
        self._n_bytes, self._used = n_bytes, 0
        self._entries: deque[tuple[Entry, int]] = deque()
        self._lock = threading.Lock()

    def append(self, entry: Entry, size: int = 0) -> None:
        """Add an entry with `size` bytes of what a client sent; the oldest go if there is no room."""
        with self._lock:
            self._entries.append((entry, size + ENTRY))
            self._used += size + ENTRY
            while self._used > self._n_bytes and len(self._entries) > 1:
                self._used -= self._entries.popleft()[1]

    def entries(self) -> list[Entry]:
        """Return a copy, the oldest first."""
        with self._lock:
            return [entry for entry, _ in self._entries]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries.clear()
            self._used = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries())

    def __len__(self) -> int:
        return len(self._entries)

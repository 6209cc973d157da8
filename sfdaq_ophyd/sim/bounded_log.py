"""A log whose size clients cannot choose: the oldest entries go when the newest need their room."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Entry = TypeVar("Entry")

ENTRY = 1000
"""Bytes that an entry counts for on top of what it was told to have."""


class BoundedLog(Generic[Entry]):
    """Keep the latest entries, as many as fit. Safe to use from several threads.

    Parameters
    ----------
    n_bytes : int
        Of all entries together, as far as they are told.
    """

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

    def __iter__(self) -> Iterator[Entry]:
        with self._lock:
            entries = [entry for entry, _ in self._entries]
        return iter(entries)

    def __len__(self) -> int:
        return len(self._entries)

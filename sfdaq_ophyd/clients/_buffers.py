"""Memory for images, used again once nobody holds the image: fresh pages cost a third of a fetch."""

from __future__ import annotations

import sys
import threading

import numpy as np

MOST_KEPT = 3
"""Buffers kept for another use at the most."""


def _references(buffers: list[np.ndarray], k: int) -> int:
    return sys.getrefcount(buffers[k])


_IDLE = _references([np.empty(1, "u1")], 0)
"""What `_references` says of a buffer that only the list holds."""


class BufferPool:
    """Buffers by size. An array, view or memoryview of a buffer keeps it from being used again."""

    def __init__(self):
        self._lock = threading.Lock()
        self._buffers: list[np.ndarray] = []

    def take(self, n_bytes: int) -> np.ndarray:
        """Return a buffer of uint8 that nobody else holds; its content is undefined."""
        with self._lock:
            for k in range(len(self._buffers)):
                if self._buffers[k].size == n_bytes and _references(self._buffers, k) == _IDLE:
                    self._buffers.append(self._buffers.pop(k))
                    return self._buffers[-1]
            self._buffers.append(np.empty(n_bytes, "u1"))
            del self._buffers[:-MOST_KEPT]
            return self._buffers[-1]

    def clear(self) -> None:
        """Keep no memory."""
        with self._lock:
            self._buffers.clear()

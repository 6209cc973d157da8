"""Image buffers that are used again: a fixed number, each free once nobody looks at its pixels."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np

from ..errors import RequestError

RING_BYTES = 1 << 30
"""Memory a ring takes by default, at most; it is touched only as far as it is needed."""

MOST_IMAGES = 256
"""Buffers a ring has by default, at most."""


class Ring:
    """A bounded set of image buffers.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    dtype : dtype
        Of the pixels.
    n_images : int, optional
        How many; default 8 to `MOST_IMAGES`, by `RING_BYTES`.
    """

    def __init__(self, shape: tuple[int, int], dtype: object = "u2", n_images: int | None = None):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        n_bytes = shape[0] * shape[1] * self.dtype.itemsize
        if n_images is None:
            n_images = max(8, min(MOST_IMAGES, RING_BYTES // n_bytes))
        if isinstance(n_images, bool) or not isinstance(n_images, int) or n_images < 2:
            raise RequestError("n_images", n_images, "an integer of at least 2")
        self.n_images = n_images
        self._memory = np.empty((n_images, *self.shape), self.dtype)
        self._free: deque[int] = deque(range(n_images))

    @property
    def n_free(self) -> int:
        """Buffers nobody looks at."""
        return len(self._free)

    def take(self) -> np.ndarray | None:
        """Return a buffer, or None if all are in use.

        It is free again when the array and every view of it are gone. The one used last comes first: its
        pages are in memory, and perhaps in the cache.
        """
        try:
            slot = self._free.pop()
        except IndexError:
            return None
        # A fresh array per use; numpy keeps it as the base of all views, so its end is the end of them all.
        image = np.frombuffer(memoryview(self._memory[slot]).cast("B"), self.dtype).reshape(self.shape)
        weakref.finalize(image.base, self._free.append, slot).atexit = False
        return image

"""Bounded memory: image buffers that are used again, and bytes of messages; free once nobody looks there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np

from ..errors import RequestError
from ..limits import Limit

RING_BYTES = 1 << 30
"""Memory a ring takes by default, at most; it is touched only as far as it is needed."""

MOST_IMAGES = 256
"""Buffers a ring has by default, at most."""

MAX_HOLD = 5.0
"""s without a free buffer after which images are dropped, by default."""


LARGEST_LEARNT = (32 << 20) - (1 << 16)
"""Bytes; glibc learns nothing from larger pieces."""


def check_max_hold(seconds: float) -> None:
    """Raise RequestError unless that is a time a stream can wait for a buffer."""
    if not 0 <= seconds <= 600:
        raise RequestError("max_hold", seconds, "seconds from 0 to 600")


class Full(Exception):
    """No buffer is free, as yet."""


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
    on_free : callable, optional
        Called once, from any thread, when a buffer is given back after `take` had none.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: np.dtype | str = "u2",
        n_images: int | None = None,
        on_free: Callable[[], object] = lambda: None,
    ):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        n_bytes = shape[0] * shape[1] * self.dtype.itemsize
        if n_images is None:
            n_images = max(8, min(MOST_IMAGES, RING_BYTES // n_bytes))
        if isinstance(n_images, bool) or not isinstance(n_images, int) or n_images < 2:
            raise RequestError("n_images", n_images, "an integer of at least 2")
        self.n_images = n_images
        self._buffers: list[np.ndarray | None] = [None] * n_images
        self._slots = _Slots(n_images, on_free)
        self._full: Limit | None = None

    def take(self) -> np.ndarray | None:
        """Return a buffer, or None if all are in use.

        It is free again when the array and every view of it are gone. The one used last comes first: its
        pages are in memory, and perhaps in the cache.
        """
        slot = self._slots.take()
        if slot is None:
            return None
        self._full = None
        buffer = self._buffers[slot]
        if buffer is None:
            buffer = self._buffers[slot] = np.empty(self.shape, self.dtype)
        # A fresh array per use; numpy keeps it as the base of all views, so its end is the end of them all.
        base = np.frombuffer(buffer.data.cast("B"), self.dtype)
        self._slots.lend(slot, base)
        return base.reshape(self.shape)

    @property
    def n_bytes(self) -> int:
        """How much memory it takes at most, when every buffer has been in use."""
        return self.n_images * self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def left(self) -> float:
        """What is left of the time that `full_for` was asked for, s; infinity where it was not."""
        return float("inf") if self._full is None else self._full.left

    def full_for(self, seconds: float) -> bool:
        """Return whether `take` has had nothing to give for so long; call it each time it had not."""
        if self._full is None:
            self._full = Limit(seconds)
        return self._full.reached()


class _Loan(weakref.ref):
    """A buffer that somebody looks at."""

    __slots__ = ("slot",)
    slot: int


class _Slots:
    """Which buffers are free; outlives the ring as long as anybody looks at one."""

    def __init__(self, n: int, on_free: Callable[[], object]):
        self.free: deque[int] = deque(range(n))
        self._on_free, self._wanted = on_free, False
        self._loans: dict[int, _Loan] = {}

    def take(self) -> int | None:
        for self._wanted in (False, True):  # wanted, and looked at once more: none comes back unseen
            try:
                slot = self.free.pop()
            except IndexError:
                continue
            self._wanted = False
            return slot
        return None

    def lend(self, slot: int, array: np.ndarray) -> None:
        """Have a buffer come back when `array`, and with it every view of it, is gone."""
        loan = self._loans[slot] = _Loan(array, self._give_back)
        loan.slot = slot

    def _give_back(self, loan: _Loan) -> None:
        del self._loans[loan.slot]
        self.free.append(loan.slot)
        if self._wanted:
            self._wanted = False
            self._on_free()


def keep_freed_memory() -> None:
    """Have glibc keep 64 MiB of freed memory for messages to come, as long as this process lives.

    It gives the pages of freed messages back to the kernel, and asks for them again, one by one, when the
    next ones come. How much it keeps it learns by itself: twice the largest piece that ever went back, where
    that is no more than 32 MiB. So here is one; nothing of it is touched.
    """
    np.empty(LARGEST_LEARNT, "u1")


def give_freed_memory_back() -> None:
    """Have glibc give freed memory back to the kernel, unless the environment says how much it keeps.

    It keeps a heap per thread, and every stream that is opened has new threads: without this, memory grows
    with the number of heaps.
    """
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


class Memory:
    """Bytes of messages that somebody looks at: so many at the most, but one message is always taken.

    There may be no room for `max_hold` s; `on_free` is called, from any thread, when there is some again.
    """

    def __init__(self, n_bytes: int, max_hold: float, on_free: Callable[[], object]):
        self._most, self._max_hold, self._on_free = n_bytes, max_hold, on_free
        self._loans: dict[int, weakref.ref] = {}
        self._returned: deque[int] = deque()
        self._n_used = 0
        self._full: Limit | None = None

    def admit(self, message: np.ndarray) -> bool:
        """Count a message until every view of it is gone; False if there was no room for `max_hold`.

        Before that, `Full` is raised while there is none.
        """
        while self._returned:
            self._n_used -= self._returned.popleft()
        n_bytes = len(message)
        if self._n_used and self._n_used + n_bytes > self._most:
            self._full = self._full or Limit(self._max_hold)
            if self._returned:  # given back meanwhile, and nobody was told
                return self.admit(message)
            if not self._full.reached():
                raise Full
            return False
        self._full = None
        self._n_used += n_bytes
        key = id(message)
        self._loans[key] = weakref.ref(message, lambda _: self._give_back(key, n_bytes))
        return True

    def _give_back(self, key: int, n_bytes: int) -> None:
        del self._loans[key]
        self._returned.append(n_bytes)
        if self._full is not None:
            self._on_free()

    @property
    def left(self) -> float:
        """What is left of `max_hold` where there is no room, s; else infinity."""
        return float("inf") if self._full is None else self._full.left

"""The monitor's image buffer: both drop rules, counters, several waiting clients. No HTTP in here.

As in wire reference eiger, section 5. Used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from ...limits import counted_time

MEMORY = 16 * 2**30
"""Bytes the simulated buffer may hold, whatever `buffer_size` says."""

MOST_FRAMES = 100_000
"""Frames it may hold, however small they are."""


@dataclass(frozen=True, eq=False)
class StoredFrame:
    """One TIFF as pieces of bytes, sent one after the other.

    The large piece is shared between frames: storing one costs a few hundred bytes.
    """

    series_id: int
    image_id: int
    threshold_id: int
    pieces: tuple[bytes | memoryview, ...]

    @property
    def n_bytes(self) -> int:
        """Size of the whole file."""
        return sum(len(piece) for piece in self.pieces)


class MonitorBuffer:
    """Frames on offer to ``images/...``.

    Attributes
    ----------
    enabled, buffer_size, discard_new
        The monitor's configuration.
    n_dropped : int
        New frames refused plus old ones evicted, since `clear`.
    overflow : bool
        Whether any was.
    """

    def __init__(self):
        self._frames: deque[StoredFrame] = deque()
        self._changed = asyncio.Condition()
        self._asked_at: float | None = None
        self.initialize()

    def initialize(self) -> None:
        """Restore the defaults, which disables the monitor, and forget every frame."""
        self.enabled, self.buffer_size, self.discard_new = False, 100, True
        self._newest: StoredFrame | None = None
        self._n_bytes = 0
        self.clear()

    def clear(self) -> None:
        """Empty the buffer and the counters; the newest frame stays readable."""
        self._frames.clear()
        self._n_bytes = 0
        self.n_dropped, self.overflow = 0, False

    async def store(self, frame: StoredFrame) -> None:
        """Take in a new frame by the drop rules; a disabled monitor ignores it."""
        if not self.enabled:
            return
        self._newest = frame
        if self.discard_new and not self._has_room(frame):
            self._drop(1)
        else:
            while self._frames and not self._has_room(frame):
                self._take_out(newest=False)
                self._drop(1)
            self._frames.append(frame)
            self._n_bytes += frame.n_bytes
        await self._notify()

    def configure(self, name: str, value) -> None:
        """Set mode, size or drop rule.

        Frames beyond the size go, the newest first with `discard_new`, else the oldest.
        """
        if name == "mode":
            self.enabled = value == "enabled"
        elif name == "discard_new":
            self.discard_new = value
        else:
            self.buffer_size = value
            while len(self._frames) > value:
                self._take_out(newest=self.discard_new)
                self._drop(1)

    async def next(self, timeout: float) -> StoredFrame | None:
        """Take out the oldest frame; None if none came within `timeout` s."""
        self._asked_at = counted_time()
        await self._wait(lambda: bool(self._frames), timeout)
        self._asked_at = counted_time()
        if not self._frames:
            return None
        frame = self._take_out(newest=False)
        await self._notify()
        return frame

    async def wait_for_room(self, patience: float) -> None:
        """Wait while the buffer is full, if somebody asked for the next frame in the last `patience` s."""
        while self.enabled and len(self._frames) >= self._most and self._asked_at is not None:
            if counted_time() - self._asked_at > patience:
                return
            await self._wait(lambda: len(self._frames) < self._most, 0.5)

    async def newest(self, timeout: float) -> StoredFrame | None:
        """Return the frame that came last, in the buffer or not; None if there has been none."""
        await self._wait(lambda: self._newest is not None, timeout)
        return self._newest

    def find(self, series_id: int, image_id: int, threshold_id: int = 1) -> StoredFrame | None:
        """Return a buffered frame by its ids."""
        wanted = (series_id, image_id, threshold_id)
        return next((f for f in self._frames if (f.series_id, f.image_id, f.threshold_id) == wanted), None)

    def listing(self) -> list[list]:
        """Return ``[[series, [id, ...]], ...]``."""
        ids: dict[int, list[int]] = {}
        for frame in self._frames:
            images = ids.setdefault(frame.series_id, [])
            if frame.image_id not in images:
                images.append(frame.image_id)
        return [[series, images] for series, images in ids.items()]

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def n_bytes_free(self) -> int:
        """Memory left for frames."""
        return MEMORY - self._n_bytes

    def _has_room(self, frame: StoredFrame) -> bool:
        return len(self._frames) < self._most and self.n_bytes_free >= frame.n_bytes

    @property
    def _most(self) -> int:
        return min(self.buffer_size, MOST_FRAMES)

    def _take_out(self, *, newest: bool) -> StoredFrame:
        frame = self._frames.pop() if newest else self._frames.popleft()
        self._n_bytes -= frame.n_bytes
        return frame

    def _drop(self, n: int) -> None:
        self.n_dropped += n
        self.overflow = True

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, condition, timeout: float) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(condition)
            except TimeoutError:
                return

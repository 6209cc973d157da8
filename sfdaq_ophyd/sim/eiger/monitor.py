"""The monitor: its image buffer, both drop rules, counters, several waiting clients. No HTTP in here.

As in wire reference eiger, section 5. Used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ...limits import counted_time
from ...wire.simplon import Parameter
from .config import Subsystem
from .parameters import SWITCH, count, flag, measured, text

MEMORY = 16 * 2**30
"""Bytes the simulated buffer may hold, whatever `buffer_size` says."""

MOST_EXPOSURES = 100_000
"""Exposures it may hold, however small they are."""


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


class MonitorBuffer(Subsystem):
    """``monitor``: frames on offer to ``images/...``, one per threshold of an exposure; it counts exposures.

    Attributes
    ----------
    n_dropped : int
        New exposures refused plus old ones evicted since `clear`; with any, the state is ``overflow``.
    """

    def __init__(self, version: str):
        self._exposures: deque[deque[StoredFrame]] = deque()  # none of them is empty
        self._changed = asyncio.Condition()
        self._asked_at: float | None = None
        self.commands = {"clear": self.clear, "initialize": self.reset}
        super().__init__(version)

    def _defaults(self) -> dict[str, Parameter]:
        config = {"mode": text("disabled", *SWITCH), "buffer_size": count(100, low=1)}
        return config if self.version == "1.6.0" else config | {"discard_new": flag(True)}

    def _status(self) -> dict[str, Parameter]:
        state = "overflow" if self.n_dropped else "normal"
        status = {
            "state": measured(state, "string", "", "normal", "overflow"),
            "dropped": measured(self.n_dropped, "uint"),
            "buffer_fill_level": measured([len(self), self["buffer_size"]], "uint[]"),
            "buffer_free": measured(self.n_bytes_free, "uint"),
            "error": measured([], "string[]"),
        }
        return status | self._fetched if self.version == "1.6.0" else status

    def reset(self) -> None:
        """Restore the defaults, which disables the monitor, and forget every frame."""
        super().reset()
        self._newest: StoredFrame | None = None
        self._fetched = {f"{name}_image_number": measured([], "list") for name in ("next", "monitor")}
        self.clear()

    def clear(self) -> None:
        """Empty the buffer and the counter; the newest frame stays readable."""
        self._exposures.clear()
        self._n_bytes = self.n_dropped = 0

    def put(self, name: str, value: Any) -> list[str]:
        """Set mode, size or drop rule.

        Exposures beyond the size go, the newest first with `discard_new`, else the oldest.
        """
        changed = super().put(name, value)
        while len(self._exposures) > self["buffer_size"]:
            self._drop(newest=self._discards_new)
        return changed

    async def store(self, *frames: StoredFrame) -> None:
        """Take in the frames of one exposure by the drop rules; a disabled monitor ignores them."""
        if not self.enabled or not frames:
            return
        self._newest = frames[-1]
        n_bytes = sum(frame.n_bytes for frame in frames)
        if self._discards_new and not self._has_room(n_bytes):
            self.n_dropped += 1
        else:
            while self._exposures and not self._has_room(n_bytes):
                self._drop()
            self._exposures.append(deque(frames))
            self._n_bytes += n_bytes
        await self._notify()

    async def next(self, timeout: float) -> StoredFrame | None:
        """Take out the oldest frame; None if none came within `timeout` s."""
        self._asked_at = counted_time()
        await self._wait(lambda: bool(self._exposures), timeout)
        self._asked_at = counted_time()
        if not self._exposures:
            return None
        frame = self._exposures[0].popleft()
        self._n_bytes -= frame.n_bytes
        if not self._exposures[0]:
            self._exposures.popleft()
        await self._notify()
        return self._note_fetched("next", frame)

    async def newest(self, timeout: float) -> StoredFrame | None:
        """Return the frame that came last, in the buffer or not; None if there has been none."""
        await self._wait(lambda: self._newest is not None, timeout)
        return self._newest and self._note_fetched("monitor", self._newest)

    async def wait_for_room(self, patience: float) -> None:
        """Wait while the buffer is full, if somebody asked for the next frame in the last `patience` s."""
        while self.enabled and len(self) >= self._most and self._asked_at is not None:
            if counted_time() - self._asked_at > patience:
                return
            await self._wait(lambda: len(self) < self._most, 0.5)

    def find(self, series_id: int, image_id: int, threshold_id: int | None = None) -> StoredFrame | None:
        """Return a buffered frame by its ids, that of the lowest threshold there is unless one is named."""
        for frame in chain.from_iterable(self._exposures):
            if (frame.series_id, frame.image_id) == (series_id, image_id):
                if threshold_id in (None, frame.threshold_id):
                    return frame
        return None

    def listing(self) -> list[list]:
        """Return ``[[series, [id, ...]], ...]``."""
        ids: dict[int, dict[int, None]] = {}
        for frame in chain.from_iterable(self._exposures):
            ids.setdefault(frame.series_id, {})[frame.image_id] = None
        return [[series, list(images)] for series, images in ids.items()]

    def __len__(self) -> int:
        return len(self._exposures)

    @property
    def n_bytes_free(self) -> int:
        """Memory left for frames."""
        return MEMORY - self._n_bytes

    @property
    def _discards_new(self) -> bool:
        return self.version == "1.6.0" or self["discard_new"]

    @property
    def _most(self) -> int:
        return min(self["buffer_size"], MOST_EXPOSURES)

    def _has_room(self, n_bytes: int) -> bool:
        return len(self) < self._most and self.n_bytes_free >= n_bytes

    def _drop(self, *, newest: bool = False) -> None:
        """Drop all that is left of the oldest exposure, or of the newest."""
        exposure = self._exposures.pop() if newest else self._exposures.popleft()
        self._n_bytes -= sum(frame.n_bytes for frame in exposure)
        self.n_dropped += 1

    def _note_fetched(self, name: str, frame: StoredFrame) -> StoredFrame:
        """Remember which frame `next` or `monitor` gave last (a status of API 1.6)."""
        ids = [frame.series_id, frame.image_id, 0, 0, 0]
        self._fetched[f"{name}_image_number"] = measured(ids, "list")
        return frame

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, condition: Callable[[], bool], timeout: float) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(condition)
            except TimeoutError:
                return

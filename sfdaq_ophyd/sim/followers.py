"""Who follows the pulse clock, and how far each has come: slots in the clock's memory."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

_SLOT = struct.Struct("<32sqq")  # name, process id (0: free), last pulse id finished
_PID, _FINISHED = 32, 40
_N_SLOTS = 32

SLOTS_SIZE = _N_SLOTS * _SLOT.size
"""Bytes of all slots."""


class Slot(NamedTuple):
    """One follower, as it is at this moment."""

    number: int
    name: str
    pid: int
    finished: int

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return is_alive(self.pid)


class Slots:
    """The table of followers. Whoever takes a slot must be alone in doing so.

    Parameters
    ----------
    memory : mmap
        Shared by all processes.
    start : int
        Where the table begins.
    """

    def __init__(self, memory: mmap.mmap, start: int):
        self._memory, self._start = memory, start

    def take(self, name: str, finished: int) -> int:
        """Enter a follower of this process; return its slot."""
        for index in range(_N_SLOTS):
            slot = self._slot(index)
            if slot.pid == 0 or not slot.alive:
                self._put("<q", index, _PID, 0)
                self._put("<32s", index, 0, name.encode()[:32])
                self._put("<q", index, _FINISHED, finished)
                self._put("<q", index, _PID, os.getpid())
                return index
        raise RuntimeError(f"the pulse clock has {_N_SLOTS} followers already; {name} is one too many")

    def taken(self) -> list[Slot]:
        """Return all followers."""
        return [slot for slot in map(self._slot, range(_N_SLOTS)) if slot.pid]

    def slowest(self) -> Slot | None:
        """Return the follower that has come least far; None if there is none."""
        return min(self.taken(), key=lambda slot: slot.finished, default=None)

    def finish(self, index: int, pulse_id: int) -> None:
        """Note how far a follower has come."""
        if not self._memory.closed:
            self._put("<q", index, _FINISHED, pulse_id)

    def free(self, index: int) -> None:
        """Take a follower out."""
        if not self._memory.closed:
            self._put("<q", index, _PID, 0)

    def _slot(self, index: int) -> Slot:
        name, pid, finished = _SLOT.unpack_from(self._memory, self._start + index * _SLOT.size)
        return Slot(index, name.rstrip(b"\0").decode("utf-8", "replace"), pid, finished)

    def _put(self, layout: str, index: int, offset: int, value) -> None:
        struct.pack_into(layout, self._memory, self._start + index * _SLOT.size + offset, value)


class Follower:
    """One that does something at every pulse; made by `PulseClock.follow`."""

    def __init__(self, slots: Slots, index: int):
        self._slots = slots
        self._index: int | None = index

    def finished(self, pulse_id: int) -> None:
        """Say that all there was to do for this pulse and those before it is done."""
        if self._index is not None:
            self._slots.finish(self._index, pulse_id)

    def close(self) -> None:
        """Follow no more. Safe twice."""
        index, self._index = self._index, None
        if index is not None:
            self._slots.free(index)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

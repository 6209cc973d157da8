"""What lies in the pulse clock's memory, for all processes: its history, its followers, what there is to see.

The broker writes its files long after the pulses, when the motor stands elsewhere; what it writes of a pulse
has to be what the live stream showed of it. So there is a history of views.
"""

from __future__ import annotations

import bisect
import math
import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

_COUNT = struct.Struct("<q")

_SLOT = struct.Struct("<32sqq")  # name, process id (0: free), last pulse id finished
_PID, _FINISHED = 32, 40
_N_SLOTS = 32

SLOTS_SIZE = _N_SLOTS * _SLOT.size
"""Bytes of all slots."""


class History:
    """The last records of what changes at some pulses. Whoever adds one must be alone in doing so.

    Parameters
    ----------
    memory : mmap
        Shared by all processes.
    start : int
        Where it begins.
    layout : str
        Of a record, whose first value is the pulse id from which on it holds.
    most : int
        Records that are kept.
    """

    def __init__(self, memory: mmap.mmap, start: int, layout: str, most: int):
        self._memory, self._start, self._layout, self._most = memory, start, struct.Struct(layout), most

    @staticmethod
    def size(layout: str, most: int) -> int:
        """Return the bytes that it takes."""
        return _COUNT.size + most * struct.calcsize(layout)

    def add(self, *record) -> None:
        """Add what holds from a pulse on."""
        n = self._n
        self._layout.pack_into(self._memory, self._where(n), *record)
        _COUNT.pack_into(self._memory, self._start, n + 1)  # after it: nobody reads half a record

    def newest(self) -> tuple:
        """Return what holds for the pulses to come."""
        return self._record(self._n - 1)

    def at(self, pulse_id: int) -> tuple:
        """Return what holds at a pulse; of one before all that are known, the oldest."""
        n = self._n
        if (newest := self._record(n - 1))[0] <= pulse_id or n == 1:
            return newest
        known = range(max(0, n - self._most + 1), n - 1)
        later = bisect.bisect_right(known, pulse_id, key=lambda index: self._record(index)[0])
        return self._record(known[max(0, later - 1)])

    @property
    def _n(self) -> int:
        return _COUNT.unpack_from(self._memory, self._start)[0]

    def _record(self, index: int) -> tuple:
        return self._layout.unpack_from(self._memory, self._where(index))

    def _where(self, index: int) -> int:
        return self._start + _COUNT.size + index % self._most * self._layout.size


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


CENTRE, SIGMA = 1.0, 1.0
"""Where the sample is in the light, and how wide it is: position of M1, mm."""


def sample_at(position: float) -> float:
    """Return how much of the sample is in the light with M1 at `position` mm, 0 to 1."""
    return math.exp(-(((position - CENTRE) / SIGMA) ** 2) / 2)


class View(NamedTuple):
    """What there is to see.

    Attributes
    ----------
    light : bool
        Whether light reaches the sample: the beam is there and the shutter open.
    sample : float
        How much of the sample is in the light, 0 to 1.
    """

    light: bool
    sample: float

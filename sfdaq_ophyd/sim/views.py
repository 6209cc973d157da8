"""What detectors can see, pulse by pulse: a history in the clock's memory.

The broker writes its files long after the pulses, when the motor stands elsewhere; what it writes of a pulse
has to be what the live stream showed of it.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

CENTRE, SIGMA = 1.0, 1.0
"""Where the sample is in the light, and how wide it is: position of M1, mm."""

_VIEW = struct.Struct("<q?7xd")
_N_VIEWS = 2**14
_COUNT = struct.Struct("<q")

VIEWS_SIZE = _COUNT.size + _N_VIEWS * _VIEW.size
"""Bytes of the history."""


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


class Views:
    """The last 16384 views. Whoever adds one must be alone in doing so.

    Parameters
    ----------
    memory : mmap
        Shared by all processes.
    offset : int
        Where it begins.
    """

    def __init__(self, memory, offset: int):
        self._memory, self._offset = memory, offset

    def add(self, pulse_id: int, view: View) -> None:
        """Add what there is to see from a pulse on."""
        n = self._n()
        _VIEW.pack_into(self._memory, self._where(n), pulse_id, *view)
        _COUNT.pack_into(self._memory, self._offset, n + 1)  # after it: nobody reads half a view

    def newest(self) -> View:
        """Return the view of the pulses to come."""
        return View(*_VIEW.unpack_from(self._memory, self._where(self._n() - 1))[1:])

    def at(self, pulse_id: int) -> View:
        """Return the view of a pulse; of one before all that are known, the oldest."""
        n = self._n()
        for index in range(n - 1, max(-1, n - _N_VIEWS), -1):
            since, *view = _VIEW.unpack_from(self._memory, self._where(index))
            if since <= pulse_id:
                break
        return View(*view)

    def _n(self) -> int:
        return _COUNT.unpack_from(self._memory, self._offset)[0]

    def _where(self, index: int) -> int:
        return self._offset + _COUNT.size + index % _N_VIEWS * _VIEW.size

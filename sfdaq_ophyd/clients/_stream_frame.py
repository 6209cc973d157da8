"""Frames as the streams deliver them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..calibration.words import with_lost_packets
from ..wire.detector_name import storage_cell
from ..wire.frame import Frame


class EventIds:
    """Names for the frames of a stream, in order: the pulse id where known, else the frame number.

    Once one pulse came in several storage cells, the cell belongs to the name.
    """

    def __init__(self):
        self._last: tuple[int, int] | None = None
        self._with_cells = False

    def next(self, frame_number: int, pulse_id: int | None, daq_rec: int | None) -> str:
        """Return the name of the next frame."""
        if pulse_id is None:
            return str(frame_number)
        this = pulse_id, storage_cell(daq_rec or 0)
        if self._last is not None and this[0] == self._last[0] and this[1] != self._last[1]:
            self._with_cells = True
        self._last = this
        return f"{this[0]}.{this[1]}" if self._with_cells else str(pulse_id)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class StreamFrame(Frame):
    """A frame of an image stream.

    The event id is the pulse id where known, else the frame number. Once one pulse comes in several storage
    cells, the cell tells their frames apart: ``"21125820008.3"``. The pixels lie in a ring buffer and are
    yours as long as you keep the array or a view of it; keep many, and the stream runs out of buffers.

    Attributes
    ----------
    frame_number : int
        The detector's trigger counter.
    daq_rec : int or None
        How the frame was taken, of the first complete module; see `sfdaq_ophyd.wire.detector_name`.
    missing : tuple of int
        Blocks (modules, in memory order) that did not come; their pixels are 0xFFFF.
    incomplete : tuple of int
        Blocks that came with lost packets.
    acquisition : int
        Counted by this client from 0; grows when the numbering starts anew.
    n_dropped : int
        Images of an assembled stream that were dropped here since the last one.
    received : float
        ``time.monotonic()`` when the last byte had been read.
    extra : Mapping
        The user's additional header (module streams), or all further fields (assembled stream).
    """

    frame_number: int
    daq_rec: int | None = None
    missing: tuple[int, ...] = ()
    incomplete: tuple[int, ...] = ()
    acquisition: int = 0
    n_dropped: int = 0
    received: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> np.ndarray:
        """The raw words, in which lost packets are 0xFFFF wherever the frame came from."""
        return self.image if self.is_good else with_lost_packets(self.image)

    @property
    def om_event_id(self) -> str:
        """The event id as OM writes it: the frame number."""
        return str(self.frame_number)

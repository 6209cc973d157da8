"""Frames as the streams deliver them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..wire.frame import Frame


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class StreamFrame(Frame):
    """A frame of an image stream.

    The event id is the pulse id where known, else the frame number. The pixels lie in a ring buffer and are
    yours as long as you keep the array or a view of it; keep many, and the stream runs out of buffers.

    Attributes
    ----------
    frame_number : int
        The detector's trigger counter.
    daq_rec : int or None
        How the frame was taken, of the first complete module; see `sfdaq_ophyd.wire.daq_rec`.
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
    def om_event_id(self) -> str:
        """The event id as OM writes it: the frame number."""
        return str(self.frame_number)

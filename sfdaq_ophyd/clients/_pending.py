"""An image that is being filled, block by block, and what it says of itself in the end."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from ..wire.module_header import CLOCK_PERIOD, ModuleHeader
from ._clock import Clock
from ._intake import EventIds, StreamFrame
from ._port import Layout

Key = tuple[int, int]
"""Numbering and frame number: what images are ordered by."""

LOST = 0xFFFF
"""Pixels that did not come, as slsReceiver pads them."""

MISMATCH = "a common pulse"
"""What an image lacks whose modules do not agree."""


class Pending:
    """An image that is being filled; `blocks` has the headers of what came, by block."""

    __slots__ = ("image", "layout", "blocks", "arrival", "created", "last")

    def __init__(self, image: np.ndarray, layout: Layout, arrival: float, now: float):
        self.image, self.layout = image, layout
        self.arrival, self.created, self.last = arrival, now, 0.0
        self.blocks: dict[int, ModuleHeader] = {}

    def frame(
        self,
        key: Key,
        whole: Collection[int],
        wanted: Iterable[int],
        n_wanted: int,
        clock: Clock,
        ids: EventIds,
    ) -> StreamFrame:
        """Return it as it is; what did not come is marked.

        Parameters
        ----------
        key : (int, int)
            Of the image.
        whole : collection of int
            Blocks that came with all their packets.
        wanted : iterable of int
            Blocks that an image must have, as far as they are known.
        n_wanted : int
            How many it must have.
        clock : Clock
            Of the modules.
        ids : EventIds
            Of the stream.
        """
        blocks, n_blocks = self.blocks, self.layout.n_blocks
        missing = tuple(block for block in wanted if block not in blocks)
        for block in set(range(n_blocks)).difference(blocks):
            self.layout.part(self.image, block)[...] = LOST
        incomplete = tuple(block for block in sorted(blocks) if block not in whole)
        headers = [blocks[block] for block in sorted(whole)]
        first = headers[0] if headers else None
        pulse_id = first.pulse_id if first else None
        daq_rec = first.daq_rec if first else None
        pulse_ids = dict.fromkeys(header.pulse_id for header in headers)
        lacking = {block for block in incomplete if not blocks[block].n_packets}.union(missing)  # or filler
        lacks = ""
        if lacking:
            lacks = f"block {', '.join(map(str, sorted(lacking)))} of {n_blocks}"
        elif len(pulse_ids) > 1:
            lacks = f"{MISMATCH}: {', '.join(map(str, pulse_ids))}"
        taken = clock.time(first.ticks * CLOCK_PERIOD) if first and first.ticks else None
        return StreamFrame(
            image=self.image,
            timestamp=self.arrival if taken is None else taken,
            event_id=ids.next(key[1], pulse_id, daq_rec),
            pulse_id=pulse_id,
            is_good=len(pulse_ids) == 1 and len(headers) == n_wanted,
            lacks=lacks,
            frame_number=key[1],
            daq_rec=daq_rec,
            missing=missing,
            incomplete=incomplete,
            acquisition=key[0],
            received=self.last,
            extra=(first.extra or {}) if first else {},
        )

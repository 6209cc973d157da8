"""Messages of module streams in, images out: matched by frame number as they come. No sockets here.

An image is complete when every port has delivered its block. An image that cannot become complete, because
each missing port has gone on, fell silent or took too long, is handed on marked, or dropped, as configured.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection

import numpy as np

from ..wire.module_header import CLOCK_PERIOD, ModuleHeader
from ._clock import Clocks
from ._intake import EventIds, Foreign, Message, PixelIntake, StreamFrame
from ._pending import MISMATCH, Key, Pending
from ._port import Layout, Numberings, Port
from .ring import Full, Ring

COUNTERS = tuple(
    "received complete incomplete mismatched late duplicate dropped foreign unparsable flushed".split()
)
"""``received``, ``late``, ``duplicate``, ``foreign`` (of another detector or shape) and ``unparsable`` count
messages, the others images; ``mismatched`` those whose modules do not agree on the pulse."""

REORDER = 4
"""A port that is this many frames ahead will not deliver an older one."""

MISFITS = 2
"""So many frames per port of another layout, and no image before: the first frame was the wrong one."""

_REMEMBERED = 4096


class Assembler(PixelIntake):
    """Match module frames by number.

    Parameters
    ----------
    endpoints : list of str
        One per port.
    deliver : callable
        Called with every finished `StreamFrame`, in order of frame numbers.
    shape : (int, int), optional
        See `Layout`; an image is good only if all of it came. Default is what the first frame says, and then
        fewer ports than the detector has are enough.
    n_images : int, optional
        Buffers of the ring.
    max_age : float
        Seconds an image may wait for missing blocks, and a port may lag behind another.
    max_hold : float
        Seconds without a free buffer after which images are dropped.
    incomplete : str
        ``"mark"`` hands incomplete images on with `is_good` False, ``"drop"`` only counts them.
    n_packets : int, optional
        Packets that make a module frame complete; for detectors that read out fewer rows.
    on_free : callable, optional
        Called from any thread when there is a buffer again, after `place` raised `Full`.
    """

    def __init__(
        self,
        endpoints: list[str],
        deliver: Callable[[StreamFrame], None],
        *,
        shape: tuple[int, int] | None = None,
        n_images: int | None = None,
        max_age: float = 1.0,
        max_hold: float = 5.0,
        incomplete: str = "mark",
        n_packets: int | None = None,
        on_free: Callable[[], object] = lambda: None,
    ):
        super().__init__(endpoints)
        self._numberings = Numberings(max_age)
        self.ports = [Port(endpoint, self._numberings) for endpoint in endpoints]
        self.counters = Counter(dict.fromkeys(COUNTERS, 0))
        self._deliver, self._mark = deliver, incomplete == "mark"
        self._max_age, self._max_hold, self._on_free = max_age, max_hold, on_free
        self._shape, self._n_images, self._n_packets = shape, n_images, n_packets
        self._layout: Layout | None = None
        self._n_misfits = 0
        self._heard = 0.0
        self._pending: dict[Key, Pending] = {}
        self._finished: OrderedDict[Key, str] = OrderedDict()
        self._old_until: Key = (-1, -1)  # images up to this one are older than the mark
        self._block_of_port: dict[int, int] = {}
        self._clocks = Clocks()
        self._ids = EventIds()

    @property
    def n_pending(self) -> int:
        """Images that are being filled."""
        return len(self._pending)

    def announce(self, message: Message) -> bool:
        """Read a header and take note of it; end messages have no pixels.

        Raises
        ------
        WireError
            It is none, or the frame is not of this detector.
        """
        header = ModuleHeader.decode(message.header)
        if not header.data or len(message.parts) == 1:
            self.end(message.port)
            return False
        message.check_pixels(header.n_bytes, f"module frame {header.frame_number}")
        port, now = self.ports[message.port], message.now
        self._block(message.port, header)
        self.counters["received"] += 1
        after_pause, self._heard = now - self._heard > 2 * self._max_age, now
        opened = port.follow(header, now)
        key = (port.numbering, header.frame_number)
        if opened:
            self._clocks.begin(key)
        if opened or after_pause:  # where all were quiet for long, the silence of one says nothing
            for other in self.ports:
                other.silent = False
        if self._is_complete(header) and header.ticks:
            quiet = message.quiet_until > 0
            self._clocks.of(key).follow(header.ticks * CLOCK_PERIOD, message.arrival, quiet)
        message.head, message.key = header, key
        return True

    def place(self, message: Message) -> np.ndarray | None:
        """Return where to put the pixels of a frame; None if they are not wanted.

        Raises
        ------
        Full
            There is no buffer as yet; call again.
        """
        pending = self._pending.get(message.key)
        if pending is None:
            pending = self._open(message.key, message.arrival, message.now)
            if pending is None:
                return None
        block = self._block(message.port, message.head)
        if block in pending.blocks:
            self.counters["duplicate"] += 1
            return None
        return pending.layout.part(pending.image, block)

    def placed(self, message: Message, place: np.ndarray) -> None:
        """Take note that the pixels are in their place; hand on what is finished."""
        pending = self._pending[message.key]
        pending.blocks[self._block_of_port[message.port]] = message.head
        pending.last = time.monotonic()
        self.settle()

    def end(self, port: int) -> None:
        """Take note of a port's end message."""
        self.ports[port].end()

    def settle(self, now: float | None = None, unread: Collection[int] = ()) -> float:
        """Hand on, in order, what is complete or cannot become so; see `Intake.settle`.

        With `now`, images whose missing blocks could have come wait no longer than `max_age` before.
        """
        while self._pending:
            key = min(self._pending)
            pending = self._pending[key]
            waits = key > self._old_until and len(pending.blocks) < len(self.ports)
            if waits and not self._hopeless(key, pending, now, unread):
                left = 0.0 if now is None else self._max_age - (now - pending.created)
                return left if left > 0 else float("inf")  # else it is a port that is to be read first
            del self._pending[key]
            self._finish(key, pending)
        return float("inf")

    def is_early(self, key: Key | None) -> bool:
        """Whether an image, None for all so far, is older than the first frame of the port that came last."""
        firsts = [port.first for port in self.ports if port.first is not None]
        if not firsts or len(firsts) < len(self.ports):
            return bool(firsts)
        return (min(firsts) if key is None else key) < max(firsts)

    def begin_mark(self) -> None:
        """Take all images of which anything is known for old: they are counted and not handed on."""
        self._old_until = max(self._old_until, *((port.numbering, port.last) for port in self.ports))

    def flush_through(self, message: Message) -> None:
        """Take the image of this frame, and those before it, for old too."""
        self._old_until = max(self._old_until, message.key)

    def taken(self, message: Message) -> float | None:
        """Return when a frame was taken by its own clock, s since the epoch; None if it is not trusted."""
        clock, header = self._clocks.of(message.key), message.head
        known = self._is_complete(header) and header.ticks and clock.trusted
        return clock.time(header.ticks * CLOCK_PERIOD) if known else None

    def release(self) -> None:
        """Let the image buffers go; nothing can be received any more."""
        self._pending.clear()
        self.ring = None

    def _block(self, port: int, header: ModuleHeader) -> int:
        layout = self._layout
        if layout is None or not layout.fits(header):
            layout = self._lay_out(header)
        block = layout.block(header)
        if self._block_of_port.get(port) != block:
            if block in self._block_of_port.values():
                raise Foreign(
                    f"module header: block {block} of another port from {self.ports[port].endpoint}"
                )
            self._block_of_port[port] = block
        return block

    def _lay_out(self, header: ModuleHeader) -> Layout:
        """Take the layout of the first frame; or another, if many say so and no image was complete yet."""
        layout = Layout(header, self._shape)
        if self._layout is not None:
            self._n_misfits += 1
            if self.counters["complete"] or self._n_misfits < MISFITS * len(self.ports):
                raise Foreign(f"module header: {layout}, expected {self._layout}")
        self._n_misfits = 0
        self._pending.clear()
        self._block_of_port.clear()
        self._layout = layout
        self.ring = Ring(layout.shape, "u2", self._n_images, self._on_free)
        return layout

    def _open(self, key: Key, arrival: float, now: float) -> Pending | None:
        if key in self._finished:
            if counts_as := self._finished[key]:
                self.counters[counts_as] += 1
            return None
        if key <= self._old_until:
            self.counters["flushed"] += 1
            self._remember(key, "")
            return None
        assert self._layout is not None and self.ring is not None  # since the first frame was announced
        # Else those would wait for its port, and it for them.
        may_wait = key > min(self._pending, default=(-1, -1))
        if may_wait and len(self._pending) >= max(2, self.ring.n_images * 3 // 4):
            raise Full  # until the oldest is complete, or too old
        image = self.ring.take()
        if image is None and may_wait and not self.ring.full_for(self._max_hold):
            raise Full
        if image is None:
            self.counters["dropped"] += 1
            self._remember(key, "")
            return None
        pending = self._pending[key] = Pending(image, self._layout, arrival, now)
        return pending

    def _remember(self, key: Key, counts_as: str) -> None:
        """Count module frames that still come of this image as `counts_as`; empty: not at all."""
        self._finished[key] = counts_as
        if len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)

    def _missing(self, pending: Pending) -> list[int]:
        return [i for i in range(len(self.ports)) if self._block_of_port.get(i) not in pending.blocks]

    def _hopeless(self, key: Key, pending: Pending, now: float | None, unread: Collection[int]) -> bool:
        numbering, number = key
        missing = self._missing(pending)
        if now is not None and now - pending.created >= self._max_age:
            if not any(i in unread and not self.ports[i].passed(numbering, number + 1) for i in missing):
                for i in missing:
                    port = self.ports[i]
                    port.silent = port.silent or (port.heard < pending.created and self._lacks_many(i))
                return True
        ports = (self.ports[i] for i in missing)
        return all(port.silent or port.passed(numbering, number + REORDER) for port in ports)

    def _lacks_many(self, port: int) -> bool:
        """Whether images in a row wait for a port; a single one may have been lost on its way."""
        block = self._block_of_port.get(port)
        return sum(block not in pending.blocks for pending in self._pending.values()) >= REORDER

    def _finish(self, key: Key, pending: Pending) -> None:
        missing = self._missing(pending)
        if key <= self._old_until:
            self.counters["flushed"] += 1
            return self._remember(key, "")
        self._remember(key, "late" if missing else "duplicate")
        frame = self._frame(key, pending)
        self.counters["mismatched"] += frame.lacks.startswith(MISMATCH)
        self.counters["incomplete" if frame.missing or frame.incomplete else "complete"] += 1
        if self._mark or not (frame.missing or frame.incomplete):
            return self._deliver(frame)
        self.counters["dropped"] += 1
        return None

    def _is_complete(self, header: ModuleHeader) -> bool:
        return header.complete or header.n_packets == self._n_packets

    def _frame(self, key: Key, pending: Pending) -> StreamFrame:
        wanted = list(range(pending.layout.n_blocks))
        n_wanted = len(wanted)
        if self._shape is None and len(self.ports) < n_wanted:  # only those that are received are wanted
            wanted, n_wanted = sorted(self._block_of_port.values()), len(self.ports)
        whole = {block for block, header in pending.blocks.items() if self._is_complete(header)}
        return pending.frame(key, whole, wanted, n_wanted, self._clocks.of(key), self._ids)

"""slsReceiver's streams, one per module or interface, joined (wire reference jungfrau, section 3)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..calibration.raw_pixels import LOST
from ..errors import RequestError
from ..wire.detector_name import DetectorName, mode_bits
from ..wire.module_header import CLOCK_PERIOD, MAX_PORTS, ModuleHeader
from ._intake import Clocks, Foreign, Message, PixelIntake, StreamFrame
from ._port import Key, Numberings, Pending, Port, PortLayout
from .ring import MAX_HOLD, Full
from .stream import FrameStream


class ModuleStream(FrameStream[StreamFrame]):
    """Images from 1 to 64 module streams, matched by frame number.

    Ports connect one after the other. Where a detector runs already, the first images lack the modules of
    those that came later, and say so (`missing`, `is_good`), like any that is not whole; see `is_early`.

    Parameters
    ----------
    endpoints : sequence of str
        One per port, in any order: headers say where a block belongs.
    detector_name : str, optional
        E.g. ``JF01T03V01``; frames that do not add up to this detector are counted as foreign. Default:
        the first frame says what the image looks like.
    n_images : int, optional
        Ring buffers; default as many as fit 1 GiB, 8 to 256.
    max_age : float
        Seconds an image may wait for a module, and a port may lag behind another.
    max_hold : float
        Seconds messages are left with the sender while all buffers are in use and none is given back; then
        images are dropped and counted.
    incomplete : str
        ``"mark"`` delivers incomplete images with `is_good` False; ``"drop"`` counts them only.
    n_packets : int, optional
        Packets of a complete module frame, for a detector that reads out fewer rows: slsReceiver calls its
        frames incomplete.
    timeout : float or None
        Longest wait of an iterator for a frame, s; None waits until the stream is closed.

    Attributes
    ----------
    counters : Counter
        Messages received, late, duplicate, foreign (of another detector or shape), unparsable; images
        complete, incomplete, mismatched, dropped, flushed.
    connected : list of bool
        By port.

    Examples
    --------
    >>> with ModuleStream(["tcp://127.0.0.1:30001", "tcp://127.0.0.1:30002"]) as stream:  # doctest: +SKIP
    ...     for frame in stream:
    ...         print(frame.event_id, frame.is_good, frame.image.mean())
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        detector_name: str | None = None,
        n_images: int | None = None,
        max_age: float = 1.0,
        max_hold: float = MAX_HOLD,
        incomplete: str = "mark",
        n_packets: int | None = None,
        timeout: float | None = 10.0,
    ):
        endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not 1 <= len(endpoints) <= MAX_PORTS or len(set(endpoints)) < len(endpoints):
            raise RequestError("endpoints", endpoints, f"1 to {MAX_PORTS} different addresses")
        if not 0 < max_age <= 60:
            raise RequestError("max_age", max_age, "seconds above 0, at most 60")
        shape = None if detector_name is None else DetectorName.parse(detector_name).raw_shape
        self._new_assembler = partial(
            Assembler,
            endpoints,
            self._deliver,
            shape=shape,
            n_images=n_images,
            max_age=max_age,
            max_hold=max_hold,
            incomplete=incomplete,
            n_packets=n_packets,
        )
        super().__init__(endpoints, timeout=timeout)

    def describe_state(self) -> str:
        """Say in one line what came from where, for messages."""
        return "; ".join([super().describe_state(), *map(str, self._assembler.ports)])

    def is_early(self, frame: StreamFrame | None) -> bool:
        """Whether a port sent nothing yet when a frame was taken, though others did.

        Parameters
        ----------
        frame : StreamFrame or None
            A frame of this stream. None asks for all that came since the stream was opened, delivered or not.

        Returns
        -------
        bool
            True for a frame that is older than the first one of the port that came last.
        """
        return self._assembler.is_early(None if frame is None else (frame.acquisition, frame.frame_number))

    def _new_intake(self, on_free: Callable[[], object]) -> Assembler:
        self._assembler = self._new_assembler(on_free=on_free)
        return self._assembler


COUNTERS = tuple(
    "received complete incomplete mismatched late duplicate dropped foreign unparsable flushed".split()
)
"""``received``, ``late``, ``duplicate``, ``foreign`` (of another detector or shape) and ``unparsable`` count
messages, the others images; ``mismatched`` those whose modules do not agree on the pulse, or on how they took
it."""

MISMATCH = "a common "
"""How it begins what an image lacks whose modules do not agree."""

REORDER = 4
"""A port that is this many frames ahead will not deliver an older one."""

MISFITS = 2
"""So many frames per port of another layout, and no image before: the first frame was the wrong one."""

_REMEMBERED = 4096


class Assembler(PixelIntake):
    """Match module frames by number, and hand each finished `StreamFrame` on; no sockets here.

    Parameters are those of `ModuleStream`, with the `shape` that a `PortLayout` takes. An image is complete
    when every port has delivered its block. One that cannot become complete, because each missing port has
    gone on, fell silent or took too long, is handed on marked, or dropped, as configured.
    """

    def __init__(
        self,
        endpoints: list[str],
        deliver: Callable[[StreamFrame], None],
        *,
        shape: tuple[int, int] | None = None,
        max_age: float = 1.0,
        n_packets: int | None = None,
        **options: Any,
    ):
        super().__init__(endpoints, deliver, COUNTERS, **options)
        self._numberings = Numberings(max_age)
        self.ports = [Port(endpoint, self._numberings) for endpoint in endpoints]
        self._max_age, self._shape, self._n_packets = max_age, shape, n_packets
        self._layout: PortLayout | None = None
        self._n_misfits = 0
        self._heard = 0.0
        self._pending: dict[Key, Pending] = {}
        self._finished: OrderedDict[Key, str] = OrderedDict()
        self._old_until: Key = (-1, -1)  # images up to this one are older than the mark
        self._block_of_port: dict[int, int] = {}
        self._clocks = Clocks()

    @property
    def n_pending(self) -> int:
        """Images that are being filled."""
        return len(self._pending)

    def announce(self, message: Message) -> bool:
        """Read a header and take note of it; end messages have no pixels."""
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
        """Return where to put the pixels of a frame; None if they are not wanted."""
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
        """Let the image buffers go, once their readers have; nothing can be received any more."""
        self._pending.clear()
        super().release()

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

    def _lay_out(self, header: ModuleHeader) -> PortLayout:
        """Take the layout of the first frame; or another, if many say so and no image was complete yet."""
        layout = PortLayout(header, self._shape)
        if self._layout is not None:
            self._n_misfits += 1
            if self.counters["complete"] or self._n_misfits < MISFITS * len(self.ports):
                raise Foreign(f"module header: {layout}, expected {self._layout}")
        self._n_misfits = 0
        self._pending.clear()
        self._block_of_port.clear()
        self._layout = layout
        self._new_ring(layout.shape, "u2")
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
        if self._is_wanted(not (frame.missing or frame.incomplete)):
            n_dropped = self._dropped_since()
            self._deliver(replace(frame, n_dropped=n_dropped) if n_dropped else frame)

    def _is_complete(self, header: ModuleHeader) -> bool:
        return header.complete or header.n_packets == self._n_packets

    def _frame(self, key: Key, pending: Pending) -> StreamFrame:
        """Return an image as it is; what did not come is marked."""
        blocks, n_blocks = pending.blocks, pending.layout.n_blocks
        wanted, n_wanted = list(range(n_blocks)), n_blocks
        if self._shape is None and len(self.ports) < n_blocks:  # only those that are received are wanted
            wanted, n_wanted = sorted(self._block_of_port.values()), len(self.ports)
        for block in set(range(n_blocks)).difference(blocks):
            pending.layout.part(pending.image, block)[...] = LOST
        missing = tuple(block for block in wanted if block not in blocks)
        incomplete = tuple(block for block in sorted(blocks) if not self._is_complete(blocks[block]))
        headers = [blocks[block] for block in sorted(blocks) if block not in incomplete]
        first = headers[0] if headers else None
        pulse_id, daq_rec = (first.pulse_id, first.daq_rec) if first else (None, None)
        pulse_ids = dict.fromkeys(header.pulse_id for header in headers)
        words = {mode_bits(header.daq_rec): header.daq_rec for header in reversed(headers)}
        lacking = {block for block in incomplete if not blocks[block].n_packets}.union(missing)  # or filler
        lacks = ""
        if lacking:
            lacks = f"block {', '.join(map(str, sorted(lacking)))} of {n_blocks}"
        elif len(pulse_ids) > 1:
            lacks = f"{MISMATCH}pulse: {', '.join(map(str, pulse_ids))}"
        elif len(words) > 1:  # pixels of one would get the constants of another
            lacks = (
                f"{MISMATCH}gain mode and storage cell: daq_rec {', '.join(map(str, sorted(words.values())))}"
            )
        taken = self._clocks.of(key).time(first.ticks * CLOCK_PERIOD) if first and first.ticks else None
        return StreamFrame(
            image=pending.image,
            timestamp=pending.arrival if taken is None else taken,
            event_id=self._ids.next(key[1], pulse_id, daq_rec),
            pulse_id=pulse_id,
            is_good=len(pulse_ids) == len(words) == 1 and len(headers) == n_wanted,
            lacks=lacks,
            frame_number=key[1],
            daq_rec=daq_rec,
            missing=missing,
            incomplete=incomplete,
            acquisition=key[0],
            received=pending.last,
            extra=(first.extra or {}) if first else {},
        )

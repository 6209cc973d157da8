"""slsReceiver's streams, one per module or interface, joined (wire reference jungfrau, section 3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np

from ..errors import RequestError
from ..wire.detector_name import DetectorName
from ..wire.module_header import MAX_PORTS, ModuleHeader
from ._assembler import Assembler
from ._intake import Message, PixelIntake, StreamFrame
from .ring import MAX_HOLD, Ring, check_max_hold
from .stream import FrameStream


class ModuleStream(FrameStream[StreamFrame]):
    """Images from 1 to 64 module streams, matched by frame number.

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
        if incomplete not in ("mark", "drop"):
            raise RequestError("incomplete", incomplete, "'mark' or 'drop'")
        if not 0 < max_age <= 60:
            raise RequestError("max_age", max_age, "seconds above 0, at most 60")
        check_max_hold(max_hold)
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

    @property
    def n_pending(self) -> int:
        """Images that wait for modules."""
        return self._assembler.n_pending

    def _new_intake(self, on_free: Callable[[], object]) -> ModuleIntake:
        self._assembler = self._new_assembler(on_free=on_free)
        return ModuleIntake(self._assembler, self.endpoints)


class ModuleIntake(PixelIntake):
    """Give module frames to an `Assembler`."""

    def __init__(self, assembler: Assembler, endpoints: list[str]):
        super().__init__(endpoints)
        self._assembler, self.counters = assembler, assembler.counters

    @property
    def ring(self) -> Ring | None:
        """The image buffers."""
        return self._assembler.ring

    def announce(self, message: Message) -> bool:
        """Read a header and take note of it; end messages have no pixels."""
        head = ModuleHeader.decode(message.header)
        if not head.data or len(message.parts) == 1:
            self._assembler.end(message.port)
            return False
        message.check_pixels(head.n_bytes, f"module frame {head.frame_number}")
        quiet = message.quiet_until > 0
        message.key = self._assembler.announce(message.port, head, message.arrival, message.now, quiet)
        message.head = head
        return True

    def taken(self, message: Message) -> float | None:
        """Return when the module's clock says the frame was taken, s since the epoch."""
        return self._assembler.time(message.key, message.head)

    def begin_mark(self) -> None:
        """Take all images for old of which anything has come."""
        self._assembler.begin_mark()

    def flush_through(self, message: Message) -> None:
        """Take the image of this frame for old."""
        self._assembler.flush_through(message.key)

    def place(self, message: Message) -> np.ndarray | None:
        """Return the module's place in its image."""
        head, key = message.head, message.key
        return self._assembler.place(message.port, head, key, message.arrival, message.now)

    def placed(self, message: Message, place: np.ndarray) -> None:
        """Hand on the image if it is complete."""
        self._assembler.placed(message.port, message.head, message.key, time.monotonic())

    def settle(self, now: float, unread: Collection[int]) -> float:
        """Hand on what waits no longer for its missing modules."""
        return self._assembler.settle(now, unread)

    def release(self) -> None:
        """Let the image buffers go, once their readers have."""
        self._assembler.release()

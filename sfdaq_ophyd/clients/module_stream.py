"""slsReceiver's image streams, one per module or interface, joined to images (contract jungfrau.md, 3)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmq

from ..errors import RequestError, WireError
from ..wire.detector_name import DetectorName
from ..wire.module_header import MAX_PORTS, ModuleHeader
from ._assembler import Assembler
from ._stream import FrameStream


class ModuleStream(FrameStream):
    """Images from 1 to 64 module streams, matched by frame number.

    Parameters
    ----------
    endpoints : sequence of str
        One per port, in any order: headers say where a block belongs.
    detector_name : str, optional
        E.g. ``JF01T03V01``; frames that do not add up to this detector are counted as unparsable. Default:
        the first frame says what the image looks like.
    n_images : int, optional
        Ring buffers; default as many as fit 1 GiB, 8 to 256.
    max_age : float
        Seconds an image may wait for a module, and a port may lag behind another.
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
        Messages received, late, duplicate, unparsable; images complete, incomplete, dropped, flushed.
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
        super().__init__(endpoints, timeout=timeout)
        shape = None if detector_name is None else DetectorName.parse(detector_name).raw_shape
        self._options = {
            "shape": shape,
            "n_images": n_images,
            "max_age": max_age,
            "incomplete": incomplete,
            "n_packets": n_packets,
        }
        self._prepare()

    def describe_state(self) -> str:
        """Say in one line what came from where, for messages."""
        return "; ".join([super().describe_state(), *map(str, self._assembler.ports)])

    @property
    def n_pending(self) -> int:
        """Images that wait for modules."""
        return self._assembler.n_pending

    def _prepare(self) -> None:
        self._assembler = Assembler(self.endpoints, self._deliver, **self._options)
        self.counters = self._assembler.counters

    def _release(self) -> None:
        self._assembler.release()

    def _receive(self, port: int, socket: zmq.Socket, header: bytes) -> None:
        more = socket.get(zmq.RCVMORE)
        head = ModuleHeader.decode(header)
        if not (head.data and more):
            return self._assembler.end(port)
        place = self._assembler.place(port, head, time.time(), time.monotonic())
        if place is None:
            return None
        n_bytes = socket.recv_into(place)
        if n_bytes != head.n_bytes or socket.get(zmq.RCVMORE):
            found = f"{n_bytes} bytes of pixels" + (" and further parts" if socket.get(zmq.RCVMORE) else "")
            raise WireError(f"module frame {head.frame_number}: {found}, expected {head.n_bytes}")
        return self._assembler.placed(port, head, time.monotonic())

    def _settle(self, read_until: float | None) -> float | None:
        self._assembler.settle(read_until)
        return self._assembler.next_expiry()

    def _forget(self, now: float) -> None:
        self._assembler.flush(now)

"""slsReceiver's streams, one per module or interface, joined (wire reference jungfrau, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..errors import RequestError
from ..wire.detector_name import DetectorName
from ..wire.module_header import MAX_PORTS
from ._assembler import Assembler
from ._intake import StreamFrame
from .ring import MAX_HOLD, check_max_hold
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

    def is_early(self, frame: StreamFrame | None) -> bool:
        """Whether a port sent nothing yet when a frame was taken, though others did."""
        return self._assembler.is_early(None if frame is None else (frame.acquisition, frame.frame_number))

    def _new_intake(self, on_free: Callable[[], object]) -> Assembler:
        self._assembler = self._new_assembler(on_free=on_free)
        return self._assembler

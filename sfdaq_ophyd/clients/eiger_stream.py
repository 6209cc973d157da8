"""The Eiger's stream, version 2: every frame at full rate, compressed as it was sent.

The detector control unit binds a PUSH socket: each message goes to exactly one of its clients, and what
nobody takes is dropped there. So one connection per detector, up before the detector is armed (wire reference
eiger, section 7.2).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

import zmq

from ..errors import RequestError
from ._eiger_messages import EigerFrame, Messages, Series
from .ring import MAX_HOLD, Memory, check_max_hold
from .stream import FrameStream

PORT = 31001
"""Of version 2, at the detector control unit."""

MAX_BYTES = 512 << 20
"""Messages in memory, by default; more stay with the sender."""

MAX_MESSAGE = 1 << 30
"""Bytes of one message: a start with all tables of a 16M has 145 MB per threshold."""

HIGH_WATER = 16
"""Messages that may wait in the socket: the largest have 72 MB."""


def stream_of(url: str) -> str:
    """Return the endpoint of the stream of the detector control unit at `url`, ``"http://dcu:80"``."""
    host = urlsplit(url).hostname or ""
    return f"tcp://{f'[{host}]' if ':' in host else host}:{PORT}"


class EigerStream(FrameStream[EigerFrame]):
    """Frames of one Eiger, from its stream of version 2.

    Parameters
    ----------
    endpoint : str
        E.g. ``tcp://dcu:31001``.
    max_bytes : int
        Messages that are kept in memory until their frames are gone; then the sender keeps its own, and the
        detector drops what does not fit there.
    max_hold : float
        s for which nothing is read while memory is full and no frame is given back; then frames are dropped
        here, and counted.
    timeout : float or None
        Longest wait of an iterator for a frame, s; None waits until the stream is closed.

    Attributes
    ----------
    counters : Counter
        Messages received, images, duplicate (ids), refused (wrong data, of one threshold at least), dropped
        (memory was full), unknown (types of message), unparsable, flushed, beyond (numbered above what the
        series was to have).
    series : OrderedDict of str to Series
        By unique id, the newest last.
    channels : tuple of str
        Those that images should have where the start of their series, which tells, did not come.

    Examples
    --------
    >>> with EigerStream("tcp://dcu:31001") as stream:  # doctest: +SKIP
    ...     for frame in stream:
    ...         print(frame.image_id, frame.timestamp, frame.pixels.max())
    """

    def __init__(
        self,
        endpoint: str,
        *,
        max_bytes: int = MAX_BYTES,
        max_hold: float = MAX_HOLD,
        timeout: float | None = 10.0,
    ):
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < 1 << 20:
            raise RequestError("max_bytes", max_bytes, "an integer of at least 1 MiB")
        check_max_hold(max_hold)
        self._max_bytes, self._max_hold = max_bytes, max_hold
        self.on_series: Callable[[Series], object] = lambda series: None
        self.channels: tuple[str, ...] = ()
        super().__init__(
            [endpoint],
            timeout=timeout,
            socket_type=zmq.PULL,
            max_message=MAX_MESSAGE,
            high_water=HIGH_WATER,
        )

    @property
    def series(self) -> OrderedDict[str, Series]:
        """What came of the newest series, by unique id; the newest last."""
        return self._messages.series

    def _new_intake(self, on_free: Callable[[], object]) -> Messages:
        memory = Memory(self._max_bytes, self._max_hold, on_free)
        self._messages = Messages(
            self.endpoints,
            self._deliver,
            lambda series: self.on_series(series),
            memory,
            lambda: self.channels,
        )
        return self._messages

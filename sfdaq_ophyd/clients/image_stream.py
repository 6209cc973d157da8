"""Streams of whole images: sf-daq's assembled stream, the standard DAQ's live stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import zmq

from ..errors import RequestError
from ..wire.detector_name import DetectorName
from ..wire.image_header import MAX_IMAGE_BYTES, ImageHeader
from ..wire.pulse_id import PULSE_RATE
from ._intake import Clock, Foreign, Message, PixelIntake, StreamFrame
from .ring import MAX_HOLD, Full
from .stream import FrameStream

COUNTERS = "received complete incomplete duplicate dropped placeholder foreign unparsable flushed".split()


class ImageStream(FrameStream[StreamFrame]):
    """Images from one endpoint.

    Images the sender left out (shape 2 x 2) are counted and skipped. All further header fields are in a
    frame's `extra`, untouched. The stream tells no time: `timestamp` is the arrival.

    Parameters
    ----------
    endpoint : str, or list of one
        E.g. ``tcp://127.0.0.1:9007``.
    pull : bool
        Whether the sender is a PUSH socket (sf-daq's live stream: clients share the images) and not a PUB.
    detector_name : str, optional
        E.g. ``JF01T03V01``; images that say they are of another detector are counted as foreign.
    n_images : int, optional
        Ring buffers; default as many as fit 1 GiB, 8 to 256.
    max_hold : float
        Seconds messages are left with the sender while all buffers are in use and none is given back; then
        images are dropped and counted.
    incomplete : str
        ``"mark"`` delivers images that are not good with `is_good` False; ``"drop"`` counts them only.
    timeout : float or None
        Longest wait of an iterator for a frame, s; None waits until the stream is closed.

    Attributes
    ----------
    counters : Counter
        Messages received, foreign (of another detector), unparsable; images complete (good), incomplete (not
        good), duplicate, dropped, placeholder, flushed.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        pull: bool = False,
        detector_name: str | None = None,
        n_images: int | None = None,
        max_hold: float = MAX_HOLD,
        incomplete: str = "mark",
        timeout: float | None = 10.0,
    ):
        if not isinstance(endpoint, str):
            if len(endpoint) != 1:
                raise RequestError("endpoint", endpoint, "one address")
            endpoint = endpoint[0]
        self._images = partial(
            ImageIntake,
            [endpoint],
            self._deliver,
            family=None if detector_name is None else DetectorName.parse(detector_name).family,
            n_images=n_images,
            max_hold=max_hold,
            incomplete=incomplete,
        )
        socket_type = zmq.PULL if pull else zmq.SUB
        super().__init__([endpoint], timeout=timeout, socket_type=socket_type, max_message=MAX_IMAGE_BYTES)

    def _new_intake(self, on_free: Callable[[], object]) -> ImageIntake:
        return self._images(on_free=on_free)


class ImageIntake(PixelIntake):
    """Hand whole images on, one message each."""

    def __init__(
        self,
        endpoints: list[str],
        deliver: Callable[[StreamFrame], None],
        *,
        family: str | None,
        **options: Any,
    ):
        super().__init__(endpoints, deliver, COUNTERS, **options)
        self._family = family
        self._last_id: tuple[int, int | None] | None = None
        self._n_announced, self._n_old = 0, 0
        self._clock, self._pulse_id = Clock(), 0

    def announce(self, message: Message) -> bool:
        """Read a header and take note of it; an image that was left out has no pixels."""
        head = ImageHeader.decode(message.header)
        self._check_detector(head)
        self.counters["received"] += 1
        if head.placeholder:
            self.counters["placeholder"] += 1
            return False
        message.check_pixels(head.n_bytes, f"image {head.frame_number}")
        this_id = (head.frame_number, head.pulse_id)
        if this_id == self._last_id and any(this_id):
            self.counters["duplicate"] += 1
            return False
        self._last_id = this_id
        self._n_announced += 1
        message.head, message.key = head, self._n_announced
        if head.pulse_id is not None:
            if head.pulse_id < self._pulse_id:
                self._clock = Clock()
            self._pulse_id = head.pulse_id
            self._clock.follow(head.pulse_id / PULSE_RATE, message.arrival, message.quiet_until > 0)
        return True

    def taken(self, message: Message) -> float | None:
        """Return when the pulse was, s since the epoch: pulses come every 10 ms, with beam or without."""
        known = message.head.pulse_id is not None and self._clock.trusted
        return self._clock.time(message.head.pulse_id / PULSE_RATE) if known else None

    def begin_mark(self) -> None:
        """Take all images that have come for old."""
        self._n_old = self._n_announced

    def flush_through(self, message: Message) -> None:
        """Take this image for old."""
        self._n_old = message.key

    def place(self, message: Message) -> np.ndarray | None:
        """Return a buffer for the image."""
        if message.key <= self._n_old:
            self.counters["flushed"] += 1
            return None
        head = message.head
        if self.ring is None or (self.ring.shape, self.ring.dtype) != (head.shape, head.dtype):
            self._new_ring(head.shape, head.dtype)
        assert self.ring is not None
        image = self.ring.take()
        if image is None:
            if not self.ring.full_for(self._max_hold):
                raise Full
            self.counters["dropped"] += 1
        return image

    def placed(self, message: Message, image: np.ndarray) -> None:
        """Hand the image on."""
        head = message.head
        if self._is_wanted(head.is_good):
            self._deliver(self._frame(head, image, message.arrival))

    def _check_detector(self, head: ImageHeader) -> None:
        """Refuse an image that names another detector; versions of one detector are the same modules."""
        if self._family is None or not head.detector_name:
            return
        try:
            family = DetectorName.parse(head.detector_name).family
        except RequestError as exc:
            raise Foreign(f"image header: {exc}") from exc
        if family != self._family:
            raise Foreign(f"image header: detector_name={head.detector_name!r}, expected {self._family}")

    def _frame(self, head: ImageHeader, image, arrival: float) -> StreamFrame:
        return StreamFrame(
            image=image,
            timestamp=arrival,
            event_id=self._ids.next(head.frame_number, head.pulse_id, head.daq_rec),
            pulse_id=head.pulse_id,
            is_good=head.is_good,
            frame_number=head.frame_number,
            daq_rec=head.daq_rec,
            n_dropped=self._dropped_since(),
            received=time.monotonic(),
            extra={
                **head.extra,
                "detector_name": head.detector_name,
                "gain_file": head.gain_file,
                "pedestal_file": head.pedestal_file,
            },
        )

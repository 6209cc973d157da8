"""Streams of whole images: sf-daq's assembled stream, the standard DAQ's live stream."""

from __future__ import annotations

import time
from collections import Counter

import zmq

from ..errors import RequestError, WireError
from ..wire.detector_name import DetectorName
from ..wire.image_header import MAX_IMAGE_BYTES, ImageHeader
from ._ring import Ring
from ._stream import FrameStream
from ._stream_frame import StreamFrame

COUNTERS = (
    "received",
    "complete",
    "incomplete",
    "duplicate",
    "dropped",
    "placeholder",
    "unparsable",
    "flushed",
)


class ImageStream(FrameStream):
    """Images from one endpoint.

    Images the sender left out (shape 2 x 2) are counted and skipped. All further header fields are in a
    frame's `extra`, untouched. The stream tells no time: `timestamp` is the arrival.

    Parameters
    ----------
    endpoint : str
        E.g. ``tcp://127.0.0.1:9007``.
    pull : bool
        Whether the sender is a PUSH socket (sf-daq's live stream: clients share the images) and not a PUB.
    detector_name : str, optional
        E.g. ``JF01T03V01``; images that say they are of another detector are counted as unparsable.
    n_images : int, optional
        Ring buffers; default as many as fit 1 GiB, 8 to 256.
    incomplete : str
        ``"mark"`` delivers images that are not good with `is_good` False; ``"drop"`` counts them only.
    timeout : float or None
        Longest wait of an iterator for a frame, s; None waits until the stream is closed.

    Attributes
    ----------
    counters : Counter
        Messages received, unparsable; images complete (good), incomplete (not good), duplicate, dropped,
        placeholder, flushed.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        pull: bool = False,
        detector_name: str | None = None,
        n_images: int | None = None,
        incomplete: str = "mark",
        timeout: float | None = 10.0,
    ):
        if not isinstance(endpoint, str):
            if len(endpoint) != 1:
                raise RequestError("endpoint", endpoint, "one address")
            endpoint = endpoint[0]
        if incomplete not in ("mark", "drop"):
            raise RequestError("incomplete", incomplete, "'mark' or 'drop'")
        super().__init__([endpoint], timeout=timeout, socket_type=zmq.PULL if pull else zmq.SUB)
        self._n_images, self._mark = n_images, incomplete == "mark"
        self._family = None if detector_name is None else DetectorName.parse(detector_name).family
        self._prepare()

    def _prepare(self) -> None:
        self.counters = Counter(dict.fromkeys(COUNTERS, 0))
        self._ring: Ring | None = None
        self._last_id: tuple[int, int | None] | None = None
        self._n_told = 0
        self._not_before = 0.0

    def _release(self) -> None:
        self._ring = None

    def _max_message(self) -> int:
        return MAX_IMAGE_BYTES

    def _receive(self, port: int, socket: zmq.Socket, header: bytes) -> None:
        if not socket.get(zmq.RCVMORE):
            raise WireError("image message: one part, expected header and pixels")
        arrival, started = time.time(), time.monotonic()
        head = ImageHeader.decode(header)
        self._check_detector(head)
        self.counters["received"] += 1
        if head.placeholder:
            self.counters["placeholder"] += 1
            return
        image = self._buffer(head)
        if image is None:
            self.counters["dropped"] += 1
            return
        n_bytes = socket.recv_into(image)
        if n_bytes != head.n_bytes or socket.get(zmq.RCVMORE):
            found = f"{n_bytes} bytes of pixels" + (" and further parts" if socket.get(zmq.RCVMORE) else "")
            raise WireError(f"image {head.frame_number}: {found}, expected {head.n_bytes}")
        this_id = (head.frame_number, head.pulse_id)
        if this_id == self._last_id and any(this_id):
            self.counters["duplicate"] += 1
            return
        self._last_id = this_id
        if started < self._not_before:
            self.counters["flushed"] += 1
            return
        self.counters["complete" if head.is_good else "incomplete"] += 1
        if head.is_good or self._mark:
            self._deliver(self._frame(head, image, arrival))
        else:
            self.counters["dropped"] += 1

    def _buffer(self, head: ImageHeader):
        if self._ring is None or (self._ring.shape, self._ring.dtype) != (head.shape, head.dtype):
            self._ring = Ring(head.shape, head.dtype, self._n_images)
        return self._ring.take()

    def _check_detector(self, head: ImageHeader) -> None:
        """Refuse an image that names another detector; versions of one detector are the same modules."""
        if self._family is None or not head.detector_name:
            return
        try:
            family = DetectorName.parse(head.detector_name).family
        except RequestError as exc:
            raise WireError(f"image header: {exc}") from exc
        if family != self._family:
            raise WireError(f"image header: detector_name={head.detector_name!r}, expected {self._family}")

    def _frame(self, head: ImageHeader, image, arrival: float) -> StreamFrame:
        n_dropped, self._n_told = self.counters["dropped"] - self._n_told, self.counters["dropped"]
        return StreamFrame(
            image=image,
            timestamp=arrival,
            event_id=str(head.frame_number if head.pulse_id is None else head.pulse_id),
            pulse_id=head.pulse_id,
            is_good=head.is_good,
            frame_number=head.frame_number,
            daq_rec=head.daq_rec,
            n_dropped=n_dropped,
            received=time.monotonic(),
            extra={
                **head.extra,
                "detector_name": head.detector_name,
                "gain_file": head.gain_file,
                "pedestal_file": head.pedestal_file,
            },
        )

    def _settle(self, read_until: float | None) -> float | None:
        return None

    def _forget(self, now: float) -> None:
        self._not_before = now

"""What the service offers beside writing: a page, pictures, a UDP sender."""

from __future__ import annotations

import io
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

import h5py
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from .files import Pictures, is_below
from .image_source import Image, ImageSource
from .publisher import grey_picture
from .service import Service
from .settings import ServiceError, Timing

SIZE = (800, 600)
"""Width and height of the live stream's pictures."""


def jpeg(picture: PilImage.Image) -> bytes:
    """Encode in colour."""
    output = io.BytesIO()
    picture.convert("RGB").save(output, "JPEG", quality=80)
    return output.getvalue()


def _no_data() -> bytes:
    picture = PilImage.new("RGB", SIZE, "white")
    ImageDraw.Draw(picture).text((SIZE[0] // 2 - 30, SIZE[1] // 2), "No data", fill="black")
    return jpeg(picture)


def live_parts(
    observe: Callable, pictures: Pictures, timing: Timing, closing: threading.Event
) -> Iterator[bytes]:
    """Yield the parts of a multipart stream: one per image, "No data" where none come.

    Parameters
    ----------
    observe : callable
        `Service.observe`.
    pictures : Pictures
        Of the detector.
    timing : Timing
    closing : Event
        Ends the stream.
    """
    images: queue.Queue[Image] = queue.Queue(maxsize=2)

    def offer(image: Image) -> None:
        if not images.full():
            images.put_nowait(image)

    frame = np.empty(pictures.shape, pictures.dtype)
    stop = observe(offer)
    patience = timing.live_silence
    try:
        while not closing.is_set():
            try:
                image = images.get(timeout=patience)
                pictures.fill(frame, image.image_id, image.pulse_id)
                part = jpeg(grey_picture(frame).resize(SIZE))
                patience = timing.live_silence
            except queue.Empty:
                part, patience = _no_data(), timing.live_repeat
            yield b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + part + b"\r\n"
    finally:
        stop()


def pictures_of(service: Service) -> Pictures:
    """Return the detector's pictures as the stored configuration has it."""
    config = service.stored_config()
    shape = (config["image_pixel_height"], config["image_pixel_width"])
    return Pictures(config["detector_name"], shape, config["bit_depth"], service.settings.seed)


class FileViewer:
    """Look into the files of the log; ``live`` is what the detector shows now."""

    def __init__(self, service: Service):
        self._service = service

    def metadata(self, log_id: str) -> dict:
        """Return size, shape and dtype of a logged file."""
        path = self._service.log_entry(log_id)["info"]["output_file"]
        with self._open(path) as file:
            group = next(iter(file))
            data = file[group]["data"]
            return {
                "filename": path,
                "file_size": os.path.getsize(file.filename),
                "log_id": log_id,
                "dataset_name": group,
                "n_images": data.shape[0],
                "image_pixel_height": data.shape[1],
                "image_pixel_width": data.shape[2],
                "dtype": str(data.dtype),
            }

    def picture(self, log_id: str, index: int) -> bytes:
        """Return one image as JPEG; a negative index counts from the end."""
        if log_id == "live":
            pictures = pictures_of(self._service)
            frame = np.empty(pictures.shape, pictures.dtype)
            number = self._service.source.n_images
            pictures.fill(frame, number, number)
            return jpeg(grey_picture(frame))
        path = self._service.log_entry(log_id)["info"]["output_file"]
        with self._open(path) as file:
            data = next(iter(file.values()))["data"]
            if not -data.shape[0] <= index < data.shape[0]:
                raise ServiceError(f"Index ({index}) out of range for (0-{data.shape[0] - 1})")
            return jpeg(grey_picture(data[index]))

    def _open(self, path: str) -> h5py.File:
        local = self._service.folders.local(path)
        if not os.path.exists(local) or not is_below(local, self._service.folders.writable):
            raise FileNotFoundError(2, "No such file or directory", path)
        return h5py.File(local, "r")


LINKS = ("/writer/status", "/daq/stats", "/daq/config", "/daq/logs/5")
PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Standard DAQ (simulated)</title>'
    '<h1>Standard DAQ (simulated)</h1><img src="/daq/live" alt="live picture" width="400"><ul>'
    + "".join(f'<li><a href="{link}">{link}</a></li>' for link in LINKS)
    + "</ul></html>"
)


RATE = 20.0
"""Images per second it makes."""

ADDRESS = "http://127.0.0.1:5001"


class UdpSimulator:
    """READY or STREAMING; present or not.

    Parameters
    ----------
    present : bool
        An absent one makes every request fail as the proxy of the service does.
    source : ImageSource
        Streams while it does.
    """

    def __init__(self, present: bool, source: ImageSource):
        self._present, self._source = present, source
        self._started: float | None = None
        self._n = 0

    def status(self) -> dict:
        """Return status and number of images; ServiceError if absent."""
        if not self._present:
            raise ServiceError(f"Cannot communicate with API on {ADDRESS}.")
        n = self._n
        if self._started is not None:
            n = int((time.monotonic() - self._started) * RATE)
        return {
            "status": "READY" if self._started is None else "STREAMING",
            "stats": {"n_generated_images": n},
        }

    def start(self) -> dict:
        """Stream, the counter anew."""
        self._check("start")
        self._started = time.monotonic()
        self._source.burst(2**31, RATE)
        return self.status()

    def stop(self) -> dict:
        """Stop; the counter stays."""
        self._check("stop")
        self._n, self._started = self.status()["stats"]["n_generated_images"], None
        self._source.silence()
        return self.status()

    def _check(self, what: str) -> None:
        if not self._present:
            raise ServiceError(
                f"HTTPConnectionPool(host='127.0.0.1', port=5001): Max retries exceeded with url: /{what} "
                "(Caused by NewConnectionError(\"HTTPConnection(host='127.0.0.1', port=5001): Failed to "
                'establish a new connection: [Errno 111] Connection refused"))'
            )

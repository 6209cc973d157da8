"""The file validator: after each logged acquisition a report, and five pictures as a GIF."""

from __future__ import annotations

import io
import json
import queue
import threading
from collections.abc import Callable, Iterator

import h5py
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from .driver import Image
from .files import Pictures
from .publisher import LOG, Store
from .settings import Timing

SIZE = (800, 600)
"""Width and height of the live stream's pictures."""


def grey_picture(frame: np.ndarray) -> PilImage.Image:
    """Return the frame (y, x) as a picture, darkest pixel black, brightest white."""
    low, high = float(frame.min()), float(frame.max())
    scaled = (frame - low) * (255.0 / max(high - low, 1.0))
    return PilImage.fromarray(scaled.astype("u1"))


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


def validate(store: Store, log_id: str, path: str) -> None:
    """Read the file, append the report to ``daq:log:<log_id>`` and store the GIF."""
    gif = b""
    try:
        with h5py.File(path, "r") as file:
            group = next(iter(file.values()))
            image_id = group["image_id"][:]
            n_images = group["data"].shape[0]
            rows = np.linspace(0, n_images - 1, min(5, n_images)).astype(int)
            pictures = [grey_picture(group["data"][row]) for row in rows]
        output = io.BytesIO()
        pictures[0].save(output, "GIF", save_all=True, append_images=pictures[1:], duration=500)
        gif = output.getvalue()
        report = {
            "readable": True,
            "n_images": n_images,
            "image_id_range": [int(image_id[0]), int(image_id[-1])],
        }
    except (OSError, KeyError, StopIteration, IndexError):
        report = {"readable": False, "n_images": 0, "image_id_range": [0, 0]}
    record = {"report_type": "file_validator", "report": report}
    store.redis.xadd(f"{LOG}:{log_id}", {"json": json.dumps(record)})
    store.redis.set(f"daq:gif:{log_id}", gif)

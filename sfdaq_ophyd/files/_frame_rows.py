"""What a frame brings into its file: a row of ids and numbers, and images, compressed meanwhile."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..wire import compression
from ..wire.frame import MAX_ID_BYTES, Frame, FrameFormat, MissingFrame, nothing


@dataclass
class PendingFrame:
    """A frame that is not in the file yet.

    Attributes
    ----------
    images : dict of str to ndarray or memoryview
        By form: pixels, or a chunk as it is.
    chunks : dict of str to Future
        What is being compressed.
    """

    frame: Frame | MissingFrame
    images: dict[str, np.ndarray | memoryview]
    chunks: dict[str, Future[memoryview]] = field(default_factory=dict)

    @property
    def as_it_came(self) -> bool:
        """Whether nothing is to be compressed for it."""
        return not self.chunks and not any(isinstance(image, np.ndarray) for image in self.images.values())

    @property
    def ready(self) -> bool:
        """Whether it can be written without waiting, or without HDF5 compressing it."""
        pixels = any(isinstance(image, np.ndarray) for image in self.images.values())
        return not pixels and all(chunk.done() for chunk in self.chunks.values())

    def compress(self, pool: ThreadPoolExecutor) -> None:
        """Have pixels compressed in threads."""
        for name, image in list(self.images.items()):
            if isinstance(image, np.ndarray):
                self.chunks[name] = pool.submit(compression.compress_bslz4, image)
                del self.images[name]

    def pixels(self, compress: bool) -> dict[str, np.ndarray | memoryview]:
        """Return images and chunks; with `compress`, chunks alone."""
        images: dict[str, np.ndarray | memoryview] = {n: chunk.result() for n, chunk in self.chunks.items()}
        for name, image in self.images.items():
            if compress and isinstance(image, np.ndarray):
                image = compression.compress_bslz4(image)
            images[name] = image
        return images


def images_of(frame: Frame | MissingFrame, fmt: FrameFormat) -> dict[str, np.ndarray | memoryview]:
    """Return its forms, as the file has them; chunks compressed as the file's are stay as they are."""
    if isinstance(frame, MissingFrame):
        return {}
    kinds = {name: dtype.newbyteorder("<") for name, (_, dtype) in fmt.images.items()}
    images = dict(frame.more_images)
    if frame.image is not None:
        images["image"] = frame.image
    found: dict[str, np.ndarray | memoryview] = {}
    for name, array in frame.packed.items():
        if array.algorithm == fmt.compression and array.dtype == kinds[name]:
            found[name] = array.data
        else:
            images[name] = array.unpack()
    return found | {name: image.astype(kinds[name], copy=False) for name, image in images.items()}


def row_of(frame: Frame | MissingFrame, fmt: FrameFormat) -> dict[str, object]:
    """Everything about a frame but its image, by dataset."""
    if isinstance(frame, Frame):
        row: dict[str, object] = {
            "timestamp": frame.timestamp,
            "event_id": frame.event_id.encode(),
            "is_good": frame.is_good,
        }
        if fmt.has_pulse_id:
            row["pulse_id"] = frame.pulse_id
        return row | {name: _plain(frame.scalars[name]) for name in fmt.scalars}
    row = {"timestamp": np.nan, "event_id": b"", "is_good": False}
    if fmt.has_pulse_id:
        row["pulse_id"] = -1
    return row | {name: _plain(nothing(kind)) for name, kind in fmt.scalars.items()}


def kinds_of(fmt: FrameFormat) -> dict[str, np.dtype[Any]]:
    """Return how each column of a row is kept, by dataset: text as bytes, UTF-8."""
    kinds = {"timestamp": np.dtype("f8"), "event_id": np.dtype(f"S{MAX_ID_BYTES}"), "is_good": np.dtype(bool)}
    if fmt.has_pulse_id:
        kinds["pulse_id"] = np.dtype("i8")
    text = {
        name: np.dtype(f"S{kind.itemsize // 4}") for name, kind in fmt.scalars.items() if kind.kind == "U"
    }
    return {**kinds, **fmt.scalars, **text}


def _plain(value: object) -> object:
    return value.encode() if isinstance(value, str) else value

"""A frame: image, timestamp, event id, pulse id and is_good, which never part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, ShapeError
from .compression import ArrayBytes

_NOTHING: Mapping[str, Any] = MappingProxyType({})

COMPRESSIONS = ("bslz4", "lz4", "none")

MAX_ID_BYTES = 64
"""An event id is at most this long in UTF-8."""


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One 2-D readout of a whole detector, and what identifies it.

    Attributes
    ----------
    image : ndarray, shape (y, x), or None
        The pixels. Nobody may change them once the frame is handed on. None where they are in a file that
        somebody else writes.
    timestamp : float
        When the frame was taken, s since the epoch.
    event_id : str
        What the source calls this frame; never empty.
    pulse_id : int or None
        Machine pulse, where the source has one.
    is_good : bool
        What the source says about its own data.
    lacks : str
        What of the image is not there at all, e.g. ``"module 2"``; empty if it is whole. Such a frame counts
        as lost, unless the loss policy is tolerant.
    scalars : Mapping[str, float | str]
        Numbers computed from the image, e.g. ``{"total": 1234}``, and text that is known of it.
    more_images : Mapping[str, ndarray]
        The same readout in other forms, e.g. ``{"raw": ...}`` beside a calibrated image.
    packed : Mapping[str, ArrayBytes]
        Forms that are still compressed as they came, in place of `image` (as ``"image"``) and of those above.
    """

    image: npt.NDArray[Any] | None
    timestamp: float
    event_id: str
    pulse_id: int | None = None
    is_good: bool = True
    scalars: Mapping[str, float | str] = field(default_factory=lambda: _NOTHING)
    more_images: Mapping[str, npt.NDArray[Any]] = field(default_factory=lambda: _NOTHING)
    lacks: str = ""
    packed: Mapping[str, ArrayBytes] = field(default_factory=lambda: _NOTHING)


@dataclass(frozen=True, slots=True)
class MissingFrame:
    """A frame that should have come and did not.

    Attributes
    ----------
    what : str
        Its event id or pulse id as far as known, for the reader of the message; may be empty.
    """

    what: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Tables:
    """Arrays that hold for the frames after it, until the next ones.

    Attributes
    ----------
    since : str
        The series they come with.
    arrays : Mapping[str, ArrayBytes]
        By name, e.g. ``"pixel_mask/threshold_1"``.
    """

    since: str
    arrays: Mapping[str, ArrayBytes]


def nothing(kind: np.dtype[Any]) -> float | int | str:
    """Return what stands for a value of a frame that did not come."""
    if kind.kind == "U":
        return ""
    return math.nan if kind.kind == "f" else 0


_ImageForm = tuple[tuple[int, int], np.dtype[Any]]
"""Shape (y, x) and dtype."""


def _form(shape: Sequence[int], dtype: npt.DTypeLike) -> _ImageForm:
    rows, columns = shape
    return (int(rows), int(columns)), np.dtype(dtype)


@dataclass(frozen=True, slots=True, init=False)
class FrameFormat:
    """What every frame of one acquisition looks like.

    Parameters
    ----------
    shape : tuple of int
        (y, x).
    dtype : numpy dtype, or what makes one
        Of the image.
    has_pulse_id : bool
        Whether the source knows the machine pulse.
    scalars : mapping of str to numpy dtype, or what makes one
        Of the numbers each frame carries, e.g. ``{"total": "i8"}``, or of text, e.g.
        ``"U26"``. Integers stay exact; in a frame that did not come a float is NaN, an integer 0 and text
        empty, beside `is_good` False.
    frame_time : float
        s from frame to frame, as far as known; deadlines grow with it.
    more_images : mapping of str to ((y, x), dtype)
        The other forms each frame comes in.
    compression : str
        ``"bslz4"``, ``"lz4"`` or ``"none"``: how files keep the images, as most of them come.

    Raises
    ------
    RequestError
        The shape or dtype is not that of an image.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    has_pulse_id: bool
    scalars: Mapping[str, np.dtype[Any]]
    frame_time: float
    more_images: Mapping[str, _ImageForm]
    compression: str

    def __init__(
        self,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        has_pulse_id: bool = False,
        scalars: Mapping[str, npt.DTypeLike] = _NOTHING,
        frame_time: float = 0.0,
        more_images: Mapping[str, tuple[Sequence[int], npt.DTypeLike]] = _NOTHING,
        compression: str = "bslz4",
    ) -> None:
        sizes, kind = tuple(int(n) for n in shape), np.dtype(dtype)
        if len(sizes) != 2 or min(sizes) < 1:
            raise RequestError("shape", sizes, "two sizes (y, x) above 0")
        if kind.kind not in "uifb":
            raise RequestError("dtype", str(kind), "an integer or float type")
        if compression not in COMPRESSIONS:
            raise RequestError("compression", compression, f"one of {', '.join(COMPRESSIONS)}")
        put = object.__setattr__
        put(self, "shape", sizes)
        put(self, "dtype", kind)
        put(self, "has_pulse_id", has_pulse_id)
        put(self, "scalars", {name: np.dtype(kind) for name, kind in scalars.items()})
        put(self, "frame_time", frame_time)
        put(self, "more_images", {name: _form(*form) for name, form in more_images.items()})
        put(self, "compression", compression)

    @property
    def frame_bytes(self) -> int:
        """Size of one frame in memory, in all its forms."""
        return sum(y * x * dtype.itemsize for (y, x), dtype in self.images.values())

    @property
    def images(self) -> dict[str, _ImageForm]:
        """Shape and dtype of every form of a frame; the image itself is ``"image"``."""
        return {"image": (self.shape, self.dtype), **self.more_images}

    def unlike(self, name: str, image: npt.NDArray[Any] | ArrayBytes | None) -> str:
        """Say how a form of a frame is not as it was announced; empty if it is."""
        shape, dtype = self.images[name]
        if image is not None and image.shape == shape and image.dtype == dtype:
            return ""
        found = "none" if image is None else f"{image.dtype} {image.shape}"
        which = "" if name == "image" else f"{name}: "
        return f"{which}{found} came, {dtype} {shape} was announced"

    def check(self, frame: Frame) -> None:
        """Raise `ShapeError` if `frame` is not of this format; one that lacks something may lack a form."""
        came = {"image": frame.image, **frame.more_images, **frame.packed}
        for name in self.images:
            image = came.get(name)
            if (image is not None or not frame.lacks) and (problem := self.unlike(name, image)):
                raise ShapeError(f"frame {frame.event_id}: {problem}")
        if more := frame.packed.keys() - self.images.keys():
            raise ShapeError(f"frame {frame.event_id}: {', '.join(sorted(more))} came, none was announced")
        if not frame.event_id or len(frame.event_id.encode()) > MAX_ID_BYTES:
            raise ShapeError(f"event id {frame.event_id[:80]!r}: expected 1 to {MAX_ID_BYTES} bytes")
        for name, value in {"pulse id": frame.pulse_id, **frame.scalars}.items():
            if isinstance(value, int) and value >= 1 << 63:
                raise ShapeError(f"frame {frame.event_id}: {name} {value}, expected a signed 64-bit integer")
        if self.has_pulse_id and frame.pulse_id is None:
            raise ShapeError(f"frame {frame.event_id} carries no pulse id, though its source announced them")

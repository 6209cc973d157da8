"""A frame: image, timestamp, event id, pulse id and is_good, which never part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from ..errors import RequestError, ShapeError

_NOTHING: Mapping[str, float] = MappingProxyType({})

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
    """

    image: np.ndarray | None
    timestamp: float
    event_id: str
    pulse_id: int | None = None
    is_good: bool = True
    scalars: Mapping[str, float | str] = field(default_factory=lambda: _NOTHING)
    more_images: Mapping[str, np.ndarray] = field(default_factory=lambda: _NOTHING)
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class MissingFrame:
    """A frame that should have come and did not.

    Attributes
    ----------
    what : str
        Its event id or pulse id as far as known, for the reader of the message; may be empty.
    """

    what: str = ""


def nothing(kind: np.dtype) -> float | int | str:
    """Return what stands for a value of a frame that did not come."""
    return {"f": math.nan, "U": ""}.get(kind.kind, 0)


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """What every frame of one acquisition looks like.

    Attributes
    ----------
    shape : tuple of int
        (y, x).
    dtype : numpy dtype
        Of the image.
    has_pulse_id : bool
        Whether the source knows the machine pulse.
    scalars : Mapping[str, str]
        Name to numpy dtype of the numbers each frame carries, e.g. ``{"total": "i8"}``, or of text, e.g.
        ``"U26"``. Integers stay exact; in a frame that did not come a float is NaN, an integer 0 and text
        empty, beside `is_good` False.
    frame_time : float
        s from frame to frame, as far as known; deadlines grow with it.
    more_images : Mapping[str, tuple]
        Name to ((y, x), dtype) of the other forms each frame comes in.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    has_pulse_id: bool = False
    scalars: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    frame_time: float = 0.0
    more_images: Mapping[str, tuple[tuple[int, int], np.dtype]] = field(default_factory=lambda: _NOTHING)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise RequestError("shape", self.shape, "two sizes (y, x) above 0")
        if self.dtype.kind not in "uifb":
            raise RequestError("dtype", str(self.dtype), "an integer or float type")
        object.__setattr__(self, "scalars", {name: np.dtype(kind) for name, kind in self.scalars.items()})

    @property
    def frame_bytes(self) -> int:
        """Size of one frame in memory, in all its forms."""
        return sum(y * x * np.dtype(dtype).itemsize for (y, x), dtype in self.images.values())

    @property
    def images(self) -> dict[str, tuple[tuple[int, int], np.dtype]]:
        """Shape and dtype of every form of a frame; the image itself is ``"image"``."""
        more = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in self.more_images.items()}
        return {"image": (self.shape, self.dtype), **more}

    def check(self, frame: Frame) -> None:
        """Raise `ShapeError` if `frame` is not of this format."""
        came = {"image": frame.image, **frame.more_images}
        for name, (shape, dtype) in self.images.items():
            image = came.get(name)
            if image is None or image.shape != shape or image.dtype != dtype:
                found = "none" if image is None else f"{image.dtype} {image.shape}"
                which = "" if name == "image" else f" {name}:"
                raise ShapeError(
                    f"frame {frame.event_id}:{which} {found} came, {dtype} {shape} was announced"
                )
        if not frame.event_id or len(frame.event_id.encode()) > MAX_ID_BYTES:
            raise ShapeError(f"event id {frame.event_id[:80]!r}: expected 1 to {MAX_ID_BYTES} bytes")
        if self.has_pulse_id and frame.pulse_id is None:
            raise ShapeError(f"frame {frame.event_id} carries no pulse id, though its source announced them")

"""A frame as a small PNG: one palette entry per colour, so single saturated pixels stay what they are."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..catalog.pictures import limits
from ..errors import RequestError
from .live_frame import LiveFrame, histogram, profile, region

COLOUR_MAPS = ("viridis", "inferno", "magma", "cividis", "gray", "gray_r", "turbo")
SIDES = (256, 384, 512, 768, 1024, 1536, 2048)
"""Lengths of the longer side that are drawn; viewers of about the same size share a picture."""

N_COLOURS, SATURATED, BAD = 254, 254, 255
SATURATED_COLOUR, BAD_COLOUR = (255, 45, 110), (58, 63, 75)


@dataclass(frozen=True, slots=True)
class PictureView:
    """What a viewer wants to see.

    Parameters
    ----------
    region : (x0, y0, x1, y1) or None
        Pixels, ends excluded; None is the whole frame.
    side : int
        Longest side of the picture; the next of `SIDES` is drawn.
    low, high : float or None
        Limits of the colours; None takes percentiles of what is seen.
    """

    region: tuple[int, int, int, int] | None = None
    side: int = 768
    colour_map: str = "viridis"
    scale: str = "log"
    low: float | None = None
    high: float | None = None

    def __post_init__(self):
        if self.colour_map not in COLOUR_MAPS:
            raise RequestError("colour_map", self.colour_map, f"one of {', '.join(COLOUR_MAPS)}")
        if self.scale not in ("log", "linear"):
            raise RequestError("scale", self.scale, "log or linear")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise RequestError("low", self.low, f"less than high={self.high}")
        object.__setattr__(self, "side", next((s for s in SIDES if s >= self.side), SIDES[-1]))

    def within(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the region as slices of an image of `shape`; RequestError if nothing is left of it."""
        x0, y0, x1, y1 = self.region or (0, 0, shape[1], shape[0])
        x0, y0, x1, y1 = max(0, x0), max(0, y0), min(shape[1], x1), min(shape[0], y1)
        if x0 >= x1 or y0 >= y1:
            raise RequestError("region", self.region, f"a part of {shape[1]} x {shape[0]} pixels")
        return slice(y0, y1), slice(x0, x1)


@dataclass(frozen=True, slots=True)
class Picture:
    """A part of a frame, drawn, and the values at the ends of the colours."""

    png: bytes
    low: float
    high: float


def draw(frame: LiveFrame, view: PictureView) -> Picture:
    """Return a picture of the frame; drawn once for everybody who wants the same.

    Raises
    ------
    RequestError
        The region lies outside.
    """
    return frame.once(view, lambda: _draw(frame, view))


def coloured(frame: LiveFrame, view: PictureView) -> tuple[np.ndarray, float, float]:
    """Return the palette index of each pixel of the picture, uint8, and the limits of the colours.

    A block of pixels shows its largest good one; saturated if one of them is; bad if all are.
    """
    part = view.within(frame.image.shape)
    image, bad, saturated = frame.image[part], frame.bad[part], frame.saturated[part]
    step = -(-max(image.shape) // view.side)
    lowest = image.dtype.type(-np.inf) if image.dtype.kind == "f" else np.iinfo(image.dtype).min
    values = _largest(np.where(bad, lowest, image), step).astype("f4")
    bad, saturated = ~_largest(~bad, step), _largest(saturated & ~bad, step)
    low, high = _limits(values[~(bad | saturated)], view)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if view.scale == "log":
            share = np.log(np.maximum(values, low) / low) / np.log(high / low)
        else:
            share = (values - low) / (high - low)
    index = (np.clip(np.nan_to_num(share), 0, 1) * (N_COLOURS - 1)).astype("u1")
    index[saturated] = SATURATED
    index[bad] = BAD
    return index, low, high


def _limits(values: np.ndarray, view: PictureView) -> tuple[float, float]:
    low, high = limits(values)
    if view.scale == "linear":
        low = 0.0
    low = low if view.low is None else view.low
    high = high if view.high is None else view.high
    if view.scale == "log":
        low = max(low, 1e-3)
    return low, max(high, 2 * low, low + 1e-6)


def _largest(values: np.ndarray, step: int) -> np.ndarray:
    for axis in (0, 1) if step > 1 else ():
        values = np.maximum.reduceat(values, np.arange(0, values.shape[axis], step), axis=axis)
    return values


def _draw(frame: LiveFrame, view: PictureView) -> Picture:
    from PIL import Image

    index, low, high = coloured(frame, view)
    drawing = Image.fromarray(index)
    drawing.putpalette(_palette(view.colour_map))
    png = io.BytesIO()
    drawing.save(png, "PNG", compress_level=1)
    return Picture(png.getvalue(), float(low), float(high))


@cache
def colours(name: str) -> list[str]:
    """Return a dozen colours of a map, low to high, as CSS has them: the colour bar."""
    palette = _palette(name)
    return [f"#{palette[3 * i : 3 * i + 3].hex()}" for i in range(0, N_COLOURS, (N_COLOURS - 1) // 11)]


@cache
def _palette(name: str) -> bytes:
    import matplotlib

    colours = matplotlib.colormaps[name](np.linspace(0, 1, N_COLOURS), bytes=True)[:, :3]
    return colours.tobytes() + bytes(SATURATED_COLOUR) + bytes(BAD_COLOUR)


Pixel = Annotated[int, Field(ge=-(2**20), le=2**20)]
Rectangle = tuple[Pixel, Pixel, Pixel, Pixel]


class Wishes(BaseModel):
    """What one viewer wants to see of one detector; comes from its browser.

    Parameters
    ----------
    region, side, colour_map, scale, low, high
        How it is drawn: see `PictureView`.
    regions : tuple of (x0, y0, x1, y1)
        Whose sums are asked for.
    line : (x0, y0, x1, y1) or None
        Along which a profile is asked for.
    cursor : (x, y) or None
        The pixel that is asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    detector: str = Field(max_length=200)
    region: Rectangle | None = None
    side: int = Field(768, ge=1, le=2**14)
    colour_map: str = Field("viridis", max_length=20)
    scale: str = Field("log", max_length=10)
    low: float | None = None
    high: float | None = None
    regions: tuple[Rectangle, ...] = Field((), max_length=6)
    line: Rectangle | None = None
    cursor: tuple[Pixel, Pixel] | None = None

    @property
    def view(self) -> PictureView:
        """How to draw it; RequestError if that makes no sense."""
        return PictureView(self.region, self.side, self.colour_map, self.scale, self.low, self.high)

    @classmethod
    def read(cls, text: str) -> Wishes:
        """Read a browser's message.

        Raises
        ------
        RequestError
            Names the field.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "message"
            raise RequestError(field, str(first.get("input"))[:100], first["msg"]) from None


def frame_message(
    frame: LiveFrame, age: dict[str, float | None], wishes: Wishes, *, with_picture: bool
) -> bytes:
    """Return picture and numbers of one frame: 4 bytes with the length of the JSON, the JSON, the PNG.

    A viewer that has the picture already, and only asked for other numbers, gets none.
    """
    view = wishes.view
    part = view.within(frame.image.shape)
    drawn = draw(frame, view)
    head: dict[str, Any] = {
        "detector": wishes.detector,
        "facts": frame.facts,
        "frame_age": age,
        "region": [part[1].start, part[0].start, part[1].stop, part[0].stop],
        "limits": [drawn.low, drawn.high],
        "scale": view.scale,
        "colours": colours(view.colour_map),
        "histogram": frame.once(
            ("histogram", view.region, view.scale), lambda: histogram(frame, part, view.scale)
        ),
        "regions": [_region(frame, each) for each in wishes.regions],
        "line": wishes.line,
        "profile": _profile(frame, wishes.line) if wishes.line else None,
        "pixel": frame.pixel(*wishes.cursor) if wishes.cursor else None,
    }
    text = json.dumps(head).encode()
    return len(text).to_bytes(4, "big") + text + (drawn.png if with_picture else b"")


def _profile(frame: LiveFrame, line: Rectangle) -> dict[str, Any]:
    return frame.once(("profile", line), lambda: profile(frame, line))


def _region(frame: LiveFrame, rectangle: Rectangle) -> dict[str, Any] | None:
    try:
        part = PictureView(rectangle).within(frame.image.shape)
    except RequestError:
        return None  # it lies outside of this frame
    return frame.once(("region", rectangle), lambda: region(frame, part))

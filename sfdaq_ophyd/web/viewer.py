"""What one viewer wants to see of a detector, and the message with the picture and its numbers."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import RequestError
from .live_frame import LiveFrame
from .measures import histogram, profile, region
from .picture import View, colours, draw

Pixel = Annotated[int, Field(ge=-(2**20), le=2**20)]
Rectangle = tuple[Pixel, Pixel, Pixel, Pixel]


class Wishes(BaseModel):
    """What one viewer wants to see of one detector; comes from its browser.

    Parameters
    ----------
    detector : str
    region : (x0, y0, x1, y1) or None
        The part that is drawn; see `View` for this and the next five.
    side, colour_map, scale, low, high
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
    def view(self) -> View:
        """How to draw it; RequestError if that makes no sense."""
        return View(self.region, self.side, self.colour_map, self.scale, self.low, self.high)

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

    Parameters
    ----------
    age : dict
        Of `DetectorSource.frame_age`.
    with_picture : bool
        False where the viewer has it already, and only asked for other numbers.
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
        "profile": frame.once(("profile", wishes.line), lambda: profile(frame, wishes.line))
        if wishes.line
        else None,
        "pixel": frame.pixel(*wishes.cursor) if wishes.cursor else None,
    }
    text = json.dumps(head).encode()
    return len(text).to_bytes(4, "big") + text + (drawn.png if with_picture else b"")


def _region(frame: LiveFrame, rectangle: Rectangle) -> dict[str, Any] | None:
    try:
        part = View(rectangle).within(frame.image.shape)
    except RequestError:
        return None  # it lies outside of this frame
    return frame.once(("region", rectangle), lambda: region(frame, part))

"""Where each module of a detector goes in the processed image.

A module is turned once, by its own quarter turns and those of the whole detector together, and its upper left
corner is worked out here (wire reference jungfrau, sections 6.4 and 6.6); nothing downstream ever turns an
image. In the facility's table origins are in units of gap-expanded pixels, turns are counter-clockwise
quarters; source is the ``geometry_table.json`` that wire reference jungfrau, section 6.6, names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import RequestError
from ..wire.detector_name import MODULE_SHAPE, DetectorName

Scalar = TypeVar("Scalar", bound=np.generic)

_Block = tuple[int, int, int, int]
"""Upper left corner (y, x), rows and columns."""


class Row(NamedTuple):
    """One detector: a module's (y, x) origins, its quarter turns, those of the whole, strip sensor or not."""

    origins: tuple[tuple[int, int], ...]
    module_turns: tuple[int, ...]
    turns: int
    strip: bool


def _row(
    y: list[int], x: list[int], module_turns: list[int] | None = None, turns: int = 0, strip: bool = False
) -> Row:
    return Row(tuple(zip(y, x)), tuple(module_turns or [0] * len(y)), turns, strip)


# fmt: off
TABLE: dict[str, Row] = {
    "JF01T03": _row([0, 550, 1100], [0, 0, 0]),
    "JF02T09V01": _row([0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 1036, 2072, 3108, 4144, 5180, 6216, 7252, 8288]),
    "JF02T09": _row(
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [8288, 7252, 6216, 5180, 4144, 3108, 2072, 1036, 0],
        turns=2,
    ),
    "JF02T01": _row([0], [0], turns=2),
    "JF03T01": _row([0], [0]),
    "JF04T01": _row([0], [0]),
    "JF05T01": _row([0], [0], strip=True),
    "JF06T32": _row(
        [68, 0, 618, 618, 550, 550, 1168, 1168, 1100, 1100, 1718, 1718, 1650, 1650, 2268, 2268, 2200,
         2200, 2818, 2818, 2750, 2750, 3368, 3368, 3300, 3300, 3918, 3918, 3850, 3850, 4468, 4400],
        [972, 2011, 0, 1039, 2078, 3117, 0, 1039, 2078, 3117, 0, 1039, 2078, 3117, 66, 1106, 2145, 3184,
         66, 1106, 2145, 3184, 66, 1106, 2145, 3184, 66, 1106, 2145, 3184, 1106, 2145],
        turns=1,
    ),
    "JF06T08": _row(
        [68, 0, 618, 550, 1168, 1100, 1718, 1650],
        [0, 1039, 0, 1039, 67, 1106, 67, 1106],
        turns=1,
    ),
    "JF06T04": _row([68, 0, 618, 550], [0, 1039, 67, 1106], turns=1),
    "JF07T32": _row(
        [0, 0, 68, 68, 550, 550, 618, 618, 1100, 1100, 1168, 1168, 1650, 1650, 1718, 1718, 2200, 2200,
         2268, 2268, 2750, 2750, 2818, 2818, 3300, 3300, 3368, 3368, 3850, 3850, 3918, 3918],
        [68, 1107, 2146, 3185, 68, 1107, 2146, 3185, 68, 1107, 2146, 3185, 68, 1107, 2146, 3185, 0, 1039,
         2078, 3117, 0, 1039, 2078, 3117, 0, 1039, 2078, 3117, 0, 1039, 2078, 3117],
    ),
    "JF07T03": _row([0, 550, 1100], [0, 0, 0]),
    "JF08T01": _row([0], [0]),
    "JF09T01": _row([0], [0]),
    "JF10T01": _row([0], [0], strip=True),
    "JF11T04": _row([0, 0, 0, 0], [9306, 6198, 3108, 0], strip=True),
    "JF12T04": _row([0, 0, 90, 90], [0, 3117, 0, 3117], strip=True),
    "JF13T01": _row([0], [0]),
    "JF14T01": _row([0], [0]),
    "JF15T08": _row([0, 149, 550, 699, 1100, 1249, 1649, 1798], [149, 1185, 149, 1185, 0, 1037, 0, 1037]),
    "JF16T03": _row([0, 550, 1100], [0, 0, 0]),
    "JF17T16": _row(
        [0, 69, 550, 619, 1100, 1169, 1650, 1719, 2200, 2269, 2750, 2819, 597, 667, 1636, 1706],
        [607, 1646, 607, 1646, 607, 1646, 538, 1577, 538, 1577, 538, 1577, 583, 3212, 514, 3143],
        module_turns=[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 3, 3],
    ),
    "JF18T01": _row([0], [0], strip=True),
    "JF19T01": _row([0], [0]),
    "JF20T01": _row([0], [0]),
    "JF21T01": _row([0], [0]),
    "JF22T01": _row([0], [0], turns=3),
}
# fmt: on
"""Known detectors."""


CHIP = 256
"""Pixels of a chip in y and in x."""

GAP = 2
"""Pixels between two chips of a gap-expanded module."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One module in the image.

    Parameters
    ----------
    module : int
        Position in the detector, counted from 0.
    y, x : int
        Upper left corner in the image.
    turns : int
        Counter-clockwise quarter turns, 0 to 3, as `numpy.rot90` counts.
    """

    module: int
    y: int
    x: int
    turns: int


@dataclass(frozen=True, slots=True)
class Layout:
    """All modules of one processed image.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image.
    placements : tuple of Placement
        Modules that are switched on.
    gap_pixels : bool
        Whether chips stand `GAP` pixels apart.
    """

    shape: tuple[int, int]
    placements: tuple[Placement, ...]
    gap_pixels: bool

    def blocks(self, image: npt.NDArray[Scalar]) -> Iterator[npt.NDArray[Scalar]]:
        """Yield what each module covers of `image`, (..., y, x), as it lies in the image."""
        height, width = module_shape(self.gap_pixels)
        for p in self.placements:
            h, w = (height, width) if p.turns % 2 == 0 else (width, height)
            yield image[..., p.y : p.y + h, p.x : p.x + w]

    def views(self, image: npt.NDArray[Scalar]) -> Iterator[tuple[int, npt.NDArray[Scalar]]]:
        """Yield (module, the same part as a view turned back into the module's own orientation)."""
        for p, block in zip(self.placements, self.blocks(image)):
            yield p.module, np.rot90(block, -p.turns, axes=(-2, -1))

    def put(self, image: npt.NDArray[Scalar], pixels: Callable[[int], npt.NDArray[Scalar]]) -> None:
        """Write the pixels of every module, (..., 512, 1024), to their places; gaps and holes stay."""
        rows, columns = (np.arange(n) for n in MODULE_SHAPE)
        if self.gap_pixels:
            rows, columns = (index + GAP * (index // CHIP) for index in (rows, columns))
        for module, view in self.views(image):
            view[..., rows[:, None], columns] = pixels(module)


def find_row(detector_name: str) -> Row:
    """Return the geometry of a detector, by its full name or without the ``V`` part; RequestError if none."""
    name = DetectorName.parse(detector_name)
    row = TABLE.get(str(name)) or TABLE.get(name.family)
    if row is None:
        raise RequestError(
            "detector_name", detector_name, f"a detector out of {', '.join(TABLE)} (any version)"
        )
    return row


def is_known(detector_name: str) -> bool:
    """Whether a detector is in the geometry table.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``; where this version is not in it, any entry of the detector will do.

    Raises
    ------
    RequestError
        It is no name of a detector.
    """
    name = DetectorName.parse(detector_name)
    return str(name) in TABLE or name.family in TABLE


def is_strip(detector_name: str) -> bool:
    """Whether the detector has a strip sensor, which has no gaps; unknown detectors have not."""
    return is_known(detector_name) and find_row(detector_name).strip


def module_shape(gap_pixels: bool) -> tuple[int, int]:
    """Return the shape of one module in the processed image.

    Parameters
    ----------
    gap_pixels : bool
        Whether chips stand `GAP` pixels apart.

    Returns
    -------
    rows, columns : int
        514 and 1030 with gap pixels, 512 and 1024 without.

    Notes
    -----
    See wire reference jungfrau, section 6.4.
    """
    rows, columns = MODULE_SHAPE
    if gap_pixels:
        return rows + GAP * (rows // CHIP - 1), columns + GAP * (columns // CHIP - 1)
    return rows, columns


def make_layout(detector_name: str, modules: Sequence[int], *, gap_pixels: bool, geometry: bool) -> Layout:
    """Lay out the modules that are switched on, in the order in which they are stacked.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``.
    modules : sequence of int
        Those that are switched on.
    gap_pixels : bool
        Whether chips stand `GAP` pixels apart.
    geometry : bool
        Every module keeps its place, switched on or not, and what no module covers stays empty. False: they
        are stacked in y without holes.

    Returns
    -------
    Layout

    Raises
    ------
    RequestError
        With `geometry`, the detector is in no table.

    Notes
    -----
    See wire reference jungfrau, section 6.6.
    """
    height, width = module_shape(gap_pixels)
    if not geometry:
        stack = tuple(Placement(m, i * height, 0, 0) for i, m in enumerate(modules))
        return Layout((height * len(modules), width), stack, gap_pixels)
    row = find_row(detector_name)
    corners = [_corner(origin, turns, height, width) for origin, turns in zip(row.origins, row.module_turns)]
    rows = max(y + h for y, _, h, _ in corners)
    columns = max(x + w for _, x, _, w in corners)
    placements = []
    for m in modules:
        y, x = _turn_canvas(corners[m], rows, columns, row.turns)
        placements.append(Placement(m, y, x, (row.module_turns[m] + row.turns) % 4))
    shape = (columns, rows) if row.turns % 2 else (rows, columns)
    return Layout(shape, tuple(placements), gap_pixels)


def _corner(origin: tuple[int, int], turns: int, height: int, width: int) -> _Block:
    """Upper left corner and shape of a module whose pixel (0, 0) lies at `origin`."""
    y, x = origin
    if turns == 0:
        return y, x, height, width
    if turns == 1:
        return y - width, x, width, height
    if turns == 2:
        return y - height, x - width, height, width
    return y, x - height, width, height


def _turn_canvas(block: _Block, rows: int, columns: int, turns: int) -> tuple[int, int]:
    """Upper left corner of a block after the canvas is turned."""
    y, x, h, w = block
    if turns == 0:
        return y, x
    if turns == 1:
        return columns - x - w, y
    if turns == 2:
        return rows - y - h, columns - x - w
    return x, rows - y - h

"""Where each module of a detector goes in the processed image.

A module is turned once, by its own quarter turns and those of the whole detector together, and its upper left
corner is worked out here; nothing downstream ever turns an image. Contract jungfrau.md, sections 6.4 and 6.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RequestError
from ..wire.detector_name import MODULE_SHAPE, DetectorName
from .geometry_table import TABLE, Row

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

    def blocks(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """Yield what each module covers of `image`, as it lies in the image; last two axes y and x."""
        height, width = module_shape(self.gap_pixels)
        for p in self.placements:
            h, w = (height, width) if p.turns % 2 == 0 else (width, height)
            yield image[..., p.y : p.y + h, p.x : p.x + w]

    def views(self, image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (module, the same part as a view turned back into the module's own orientation)."""
        for p, block in zip(self.placements, self.blocks(image)):
            yield p.module, np.rot90(block, -p.turns, axes=(-2, -1))


def find_row(detector_name: str) -> Row:
    """Return the geometry of a detector, by its full name or without the ``V`` part.

    Raises
    ------
    RequestError
        The name is malformed, or the detector is not in the table. A ValueError.
    """
    name = DetectorName.parse(detector_name)
    row = TABLE.get(str(name)) or TABLE.get(name.family)
    if row is None:
        raise RequestError(
            "detector_name", detector_name, f"a detector out of {', '.join(TABLE)} (any version)"
        )
    return row


def is_known(detector_name: str) -> bool:
    """Whether the detector is in the geometry table."""
    name = DetectorName.parse(detector_name)
    return str(name) in TABLE or name.family in TABLE


def is_strip(detector_name: str) -> bool:
    """Whether the detector has a strip sensor, which has no gaps; unknown detectors have not."""
    return is_known(detector_name) and find_row(detector_name).strip


def module_shape(gap_pixels: bool) -> tuple[int, int]:
    """Rows and columns of one module, with or without the pixels between its chips."""
    rows, columns = MODULE_SHAPE
    if gap_pixels:
        return rows + GAP * (rows // CHIP - 1), columns + GAP * (columns // CHIP - 1)
    return rows, columns


def pixel_index(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of a module's 512 x 1024 pixels in its gap-expanded or plain block."""
    rows, columns = (np.arange(n) for n in MODULE_SHAPE)
    if layout.gap_pixels:
        rows, columns = (index + GAP * (index // CHIP) for index in (rows, columns))
    return np.ix_(rows, columns)


def make_layout(detector_name: str, modules: Sequence[int], *, gap_pixels: bool, geometry: bool) -> Layout:
    """Lay out the modules that are switched on.

    Without `geometry` they are stacked in y without holes. With it, every module keeps its place, switched on
    or not, and what no module covers stays empty.
    """
    height, width = module_shape(gap_pixels)
    if not geometry:
        placements = tuple(Placement(m, i * height, 0, 0) for i, m in enumerate(modules))
        return Layout((height * len(modules), width), placements, gap_pixels)
    row = find_row(detector_name)
    corners = [_corner(origin, turns, height, width) for origin, turns in zip(row.origins, row.module_turns)]
    rows = max(y + h for y, _, h, _ in corners)
    columns = max(x + w for _, x, _, w in corners)
    placements = []
    for m in modules:
        y, x = _turn_canvas(*corners[m], rows, columns, row.turns)
        placements.append(Placement(m, y, x, (row.module_turns[m] + row.turns) % 4))
    shape = (columns, rows) if row.turns % 2 else (rows, columns)
    return Layout(shape, tuple(placements), gap_pixels)


def _corner(origin, turns, height, width):
    """Upper left corner and shape of a module whose pixel (0, 0) lies at `origin`."""
    y, x = origin
    if turns == 0:
        return y, x, height, width
    if turns == 1:
        return y - width, x, width, height
    if turns == 2:
        return y - height, x - width, height, width
    return y, x - height, width, height


def _turn_canvas(y, x, h, w, rows, columns, turns):
    """Upper left corner of the block (y, x, h, w) after the canvas is turned."""
    if turns == 0:
        return y, x
    if turns == 1:
        return columns - x - w, y
    if turns == 2:
        return rows - y - h, columns - x - w
    return x, rows - y - h

"""What one port of a module stream has sent so far, where its blocks go, and an image that they fill."""

from __future__ import annotations

import numpy as np

from ..wire.module_header import ModuleHeader
from ._intake import Foreign

WINDOW = 1000
"""A jump back of more than this many frame numbers is a new numbering."""


class Numberings:
    """Every time frame numbers start anew, they belong to a new numbering, counted over all ports.

    No port is further than `max_lag`, s, behind another.
    """

    def __init__(self, max_lag: float):
        self._max_lag = max_lag
        self._opened: dict[int, float] = {}

    def oldest(self, now: float) -> int:
        """Return the oldest numbering any port can still be in: the next one began just now, if at all."""
        past = [n for n, opened in self._opened.items() if opened < now - self._max_lag]
        for numbering in past[:-1]:
            del self._opened[numbering]
        return past[-1] if past else 0

    def after(self, numbering: int, now: float) -> int:
        """Return the numbering of a port that was in `numbering` and starts anew; -1 for a first frame."""
        chosen = max(numbering + 1, self.oldest(now))
        self._opened.setdefault(chosen, now)
        return chosen

    @property
    def newest(self) -> int:
        """The newest numbering any port has reached; -1 before the first frame."""
        return max(self._opened, default=-1)


class Port:
    """Follow one port. Inside a port numbers grow, until an acquisition or a numbering ends.

    Attributes
    ----------
    numbering : int
        See `Numberings`.
    last : int
        Highest frame number of this numbering; -1 before the first.
    n_frames : int
        Module frames so far.
    heard : float
        When the last one came, s of counted time.
    silent : bool
        Whether images need not wait for it.
    first : (int, int) or None
        Numbering and number of the first frame of all.
    """

    def __init__(self, endpoint: str, numberings: Numberings):
        self.endpoint = endpoint
        self.numbering, self.last = -1, -1
        self.n_frames, self.heard, self.silent = 0, 0.0, False
        self.first: tuple[int, int] | None = None
        self._numberings = numberings
        self._ended = False
        self._ticks = 0
        self._pulse_id: int | None = None
        self._file_index: int | None = None

    def __str__(self) -> str:
        if not self.n_frames:
            return f"{self.endpoint}: no frame yet"
        return f"{self.endpoint}: {self.n_frames} frames, last number {self.last}"

    def end(self) -> None:
        """Take note of an end message; whether the numbering ends too, the next frame tells."""
        self._ended = True

    def passed(self, numbering: int, number: int) -> bool:
        """Tell whether this port has sent `number` of that numbering, or a later one."""
        return (self.numbering, self.last) >= (numbering, number)

    def follow(self, header: ModuleHeader, now: float) -> bool:
        """Take note of a frame that came at `now`, s of counted time; True if it opened a new acquisition."""
        number = header.frame_number
        self.n_frames, self.heard, self.silent = self.n_frames + 1, now, False
        restarted = self._restarted(header)
        if restarted:
            self.numbering = self._numberings.after(self.numbering, now)
        elif (oldest := self._numberings.oldest(now)) > self.numbering:
            self.numbering, restarted = oldest, True
        elif number < self.last:
            return False  # late: says nothing about where the port is now
        self.first = self.first or (self.numbering, number)
        another = header.file_index != self._file_index  # its end message may have been dropped
        opened = restarted or self._ended or another or 0 < header.ticks < self._ticks
        self.last = number if restarted else max(self.last, number)
        self._ended = False
        self._ticks = header.ticks or (0 if opened else self._ticks)
        self._pulse_id = header.pulse_id or self._pulse_id
        self._file_index = header.file_index
        return opened

    def _restarted(self, header: ModuleHeader) -> bool:
        """Tell a new numbering from a frame that is late or sent twice."""
        number, pulse_id = header.frame_number, header.pulse_id
        if number > self.last:
            return self.last < 0
        if self._ended or header.file_index != self._file_index or number < self.last - WINDOW:
            return True
        if pulse_id is not None and self._pulse_id is not None and pulse_id > self._pulse_id:
            return True
        first = header.frame_index == 0 and (pulse_id is None or self._pulse_id is None)
        return number < self.last and (first or self.numbering < self._numberings.newest)


class PortLayout:
    """The image that a module header, of any block, tells of.

    Without a `shape` it is one of rows and columns of blocks, as in the header. A `shape` is that of a
    detector's modules one above the other, in the order of their numbers: down a column of it first. Blocks
    are laid out so, whatever columns the header tells of; `Foreign` if the header is not of that detector.
    """

    def __init__(self, header: ModuleHeader, shape: tuple[int, int] | None):
        (rows, columns), (down, across) = header.shape, header.detector_blocks
        self._of, self._stacked = (header.shape, header.detector_blocks), shape is not None
        self.shape, self.n_blocks = header.image_shape, down * across
        if shape is not None:
            self.shape, self.n_blocks = shape, shape[0] // rows
            fits = columns == shape[1] and self.n_blocks * rows == shape[0]
            whole_columns = down <= self.n_blocks and (across - 1) * down < self.n_blocks <= across * down
            if not (fits and whole_columns):
                raise Foreign(f"module header: an image of {header.image_shape}, expected {self.shape}")

    def __str__(self) -> str:
        return f"block of {self._of[0]} in {self._of[1]} blocks"

    def fits(self, header: ModuleHeader) -> bool:
        """Whether the header is of this layout."""
        return (header.shape, header.detector_blocks) == self._of

    def block(self, header: ModuleHeader) -> int:
        """Return a block's number, in memory order; `Foreign` if the detector has none there."""
        down, across = header.detector_blocks
        at = header.column * down + header.row if self._stacked else header.row * across + header.column
        if at >= self.n_blocks:
            where = f"row={header.row}, column={header.column}"
            raise Foreign(
                f"module header: {where}, expected one of {self.n_blocks} blocks, {down} in a column"
            )
        return at

    def part(self, image: np.ndarray, block: int) -> np.ndarray:
        """Return a block's part of an image."""
        (rows, columns), (_, across) = self._of
        y, x = (block, 0) if self._stacked else divmod(block, across)
        return image[y * rows : (y + 1) * rows, x * columns : (x + 1) * columns]


Key = tuple[int, int]
"""Numbering and frame number: what images are ordered by."""


class Pending:
    """An image that is being filled; `blocks` has the headers of what came, by block."""

    __slots__ = ("image", "layout", "blocks", "arrival", "created", "last")

    def __init__(self, image: np.ndarray, layout: PortLayout, arrival: float, now: float):
        self.image, self.layout = image, layout
        self.arrival, self.created, self.last = arrival, now, 0.0
        self.blocks: dict[int, ModuleHeader] = {}

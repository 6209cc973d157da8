"""Where the blocks of a detector lie in an image."""

from __future__ import annotations

import numpy as np

from ..wire.module_header import ModuleHeader
from ._intake import Foreign


class Layout:
    """The image that a module header tells of.

    Parameters
    ----------
    header : ModuleHeader
        Of any block.
    shape : (int, int), optional
        Rows and columns of the detector's modules one above the other, in the order of their numbers: down a
        column of the detector first. Its blocks are laid out so, whatever columns the header tells of.
        Default is an image of rows and columns of blocks, as in the header.

    Raises
    ------
    Foreign
        The header is not of a detector of that shape.
    """

    def __init__(self, header: ModuleHeader, shape: tuple[int, int] | None):
        (rows, columns), (down, across) = header.shape, header.detector_blocks
        self._of, self._stacked = (header.shape, header.detector_blocks), shape is not None
        self.shape, self.n_blocks = header.image_shape, down * across
        if shape is not None:
            self.shape, self.n_blocks = tuple(shape), shape[0] // rows
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

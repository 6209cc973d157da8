"""Images of a scene, compressed once: a frame of the stream costs the blocks in which it differs.

The blocks of a compressed image do not know each other. Those that hold the frame's stamp are made for every
frame, those with the sample's reflection when the sample has moved, all others once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...wire import compression
from ...wire.compression import ArrayBytes
from ..stamp import STAMP_PIXELS

_BLOCK = {"bslz4": compression.BLOCK_BYTES, "lz4": 1 << 16, "none": 1 << 16}
"""Bytes of a block by algorithm; of any other, all are one."""


def compress(algorithm: str, pixels: np.ndarray) -> bytes | memoryview:
    """Return pixels compressed by the algorithm of that name, its prefix before them."""
    if algorithm == "none":
        return np.ascontiguousarray(pixels).data.cast("B")
    if algorithm == "lz4 block":
        return compression.compress_lz4_block(pixels)
    block = _BLOCK[algorithm]
    if algorithm == "lz4":
        return compression.compress_lz4(pixels, block)
    return compression.compress_bslz4(pixels, block // pixels.itemsize)


class PackedScene:
    """The images of one scene, compressed.

    Parameters
    ----------
    images : list of ndarray
        Frame i shows image i modulo their number.
    algorithm : str
        ``"bslz4"``, ``"lz4"`` or ``"none"``; ``"lz4 block"`` of version 1, which is made anew for each.
    rows : slice
        Those that change with the sample; none by default.
    """

    def __init__(self, images: list[np.ndarray], algorithm: str, rows: slice = slice(0, 0)):
        self.algorithm, self._shape, self._dtype = algorithm, images[0].shape, images[0].dtype
        self._images = [image.reshape(-1) for image in images]
        n_bytes = images[0].nbytes
        self._items = _BLOCK.get(algorithm, n_bytes) // self._dtype.itemsize
        self._prefix = compression.prefix(n_bytes, _BLOCK[algorithm]) if algorithm.endswith("lz4") else b""
        self._band = slice(rows.start * self._shape[1], min(rows.stop, self._shape[0]) * self._shape[1])
        n_blocks = -(-images[0].size // self._items)
        first, last = self._band.start // self._items, -(-self._band.stop // self._items)
        self._changing = slice(max(first, 1) * self._items, max(min(last, n_blocks), 1) * self._items)
        self._fixed: dict[int, tuple[bytes | memoryview, ...]] = {}
        self._varied: dict[int, tuple[float, np.ndarray, bytes | memoryview]] = {}

    def prepare(self) -> None:
        """Compress what no frame changes."""
        for k in range(len(self._images)):
            self._around(k)

    def frame(
        self,
        image_id: int,
        stamp: int,
        sample: float = 1.0,
        band: Callable[[], np.ndarray] = lambda: np.empty(0),
    ) -> ArrayBytes:
        """Return the compressed pixels of one frame.

        Parameters
        ----------
        image_id : int
        stamp : int
            Written into its first pixels.
        sample : float
            Decides what `band` returns.
        band : callable
            Returns the rows that change with the sample, shape (y, x).
        """
        k = image_id % len(self._images)
        if k not in self._varied or self._varied[k][0] != sample:
            self._varied[k] = (sample, *self._vary(k, band()))
        _, head, changing = self._varied[k]
        head[:STAMP_PIXELS] = np.frombuffer(stamp.to_bytes(STAMP_PIXELS, "little"), "u1")
        before, after = self._around(k)
        data = b"".join((self._prefix, self._blocks(head), before, changing, after))
        element_size = self._dtype.itemsize if self.algorithm == "bslz4" else 0
        return ArrayBytes(self._shape, self._dtype, self.algorithm, element_size, memoryview(data))

    def _around(self, k: int) -> tuple[bytes | memoryview, ...]:
        """Return the blocks between that of the stamp and those that change, and those after them."""
        if k not in self._fixed:
            image, changing = self._images[k], self._changing
            pieces = image[self._items : changing.start], image[changing.stop :]
            self._fixed[k] = tuple(self._blocks(piece) for piece in pieces)
        return self._fixed[k]

    def _vary(self, k: int, band: np.ndarray) -> tuple[np.ndarray, bytes | memoryview]:
        """Return the pixels of the first block, and the blocks that change, with the sample as it stands."""
        image, band = self._images[k], band.reshape(-1)
        pieces = []
        for part in (slice(0, self._items), self._changing):
            pixels = image[part].copy()
            first, last = max(part.start, self._band.start), min(part.stop, self._band.stop)
            if first < last:
                pixels[first - part.start : last - part.start] = band[
                    first - self._band.start : last - self._band.start
                ]
            pieces.append(pixels)
        return pieces[0], self._blocks(pieces[1])

    def _blocks(self, pixels: np.ndarray) -> bytes | memoryview:
        return compress(self.algorithm, pixels)[len(self._prefix) :] if pixels.size else b""

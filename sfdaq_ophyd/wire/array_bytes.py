"""An array as it was sent: a view of its message, with what is needed to unpack it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from . import compression

MAX_ARRAY: Final = 512 << 20
"""Bytes of an array at the most."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayBytes:
    """An array as it was sent: a view of the message.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns as they are said to be; of one without tag 40 the number of elements, or ``(-1,)``
        if compressed.
    dtype : numpy.dtype
        Of the elements.
    algorithm : str
        ``"none"``, ``"bslz4"``, ``"lz4"``, or what else was sent.
    element_size : int
        Bytes that were shuffled together; 0 for ``"lz4"`` and ``"none"``.
    data : memoryview
        The bytes, compressed or not.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    algorithm: str
    element_size: int
    data: memoryview

    @property
    def n_bytes(self) -> int:
        """Bytes of the numbers once decompressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    def unpack(self) -> npt.NDArray[Any]:
        """Return the numbers, decompressed; where nothing was compressed, a view of the message.

        Raises
        ------
        WireError
            The bytes are not what they say they are.
        """
        shape = self.shape
        if shape == (-1,):  # compressed and without rows: its prefix tells
            said = int.from_bytes(self.data[:8], "big")
            if said > MAX_ARRAY or said % self.dtype.itemsize:
                most = f"at most {MAX_ARRAY}, a multiple of {self.dtype.itemsize}"
                raise WireError(f"an array of {said} bytes, expected {most}")
            shape = (said // self.dtype.itemsize,)
        return compression.decompress(self.algorithm, self.element_size, self.data, shape, self.dtype)

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.unpack(), dtype, copy=copy)

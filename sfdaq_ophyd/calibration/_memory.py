"""Arrays that start on a cache line."""

from __future__ import annotations

import numpy as np

LINE = 64
"""Bytes of a cache line."""


def address(array: np.ndarray) -> int:
    """Return where the first element lies."""
    return array.__array_interface__["data"][0]


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array that starts on a cache line."""
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(n_bytes + LINE, dtype=np.uint8)
    start = -address(memory) % LINE
    return memory[start : start + n_bytes].view(dtype).reshape(shape)

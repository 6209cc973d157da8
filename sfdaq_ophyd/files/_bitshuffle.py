"""Compress one HDF5 chunk as the bitshuffle-LZ4 filter would, outside of HDF5 and without holding the GIL.

HDF5 runs its filters one chunk at a time under one global lock. The same compiled function, called directly
from the library that hdf5plugin ships, runs in as many threads as there are cores; the bytes are the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from ._lazy_imports import hdf5plugin

_HEADER = 12  # uint64 size of the data in bytes, uint32 size of a block in bytes, both big-endian


def chunk_filter() -> Mapping[str, object]:
    """Return keyword arguments of ``create_dataset`` for a dataset that holds these chunks."""
    return hdf5plugin.Bitshuffle(cname="lz4")


@cache
def _library() -> ctypes.CDLL | None:
    """Return the filter library, or None where this build hides its functions."""
    for path in sorted(Path(hdf5plugin.PLUGIN_PATH).glob("*bshuf*")):
        try:
            library = ctypes.CDLL(str(path))
            size = ctypes.c_size_t
            library.bshuf_compress_lz4.restype = ctypes.c_int64
            library.bshuf_compress_lz4.argtypes = [ctypes.c_void_p, ctypes.c_void_p, size, size, size]
            library.bshuf_compress_lz4_bound.restype = size
            library.bshuf_compress_lz4_bound.argtypes = [size, size, size]
            library.bshuf_default_block_size.restype = size
            library.bshuf_default_block_size.argtypes = [size]
        except (OSError, AttributeError):
            continue
        return library
    return None


def available() -> bool:
    """Whether `compress` works with this build of hdf5plugin."""
    return _library() is not None


def compress(image: np.ndarray, block_items: int = 0) -> memoryview:
    """Return the bytes of a bitshuffle-LZ4 chunk that holds `image`.

    Parameters
    ----------
    image : ndarray
        C-contiguous; little-endian, as the dataset it goes into.
    block_items : int
        Items that are shuffled together, as the dataset's filter has it; 0 takes the library's default.

    Returns
    -------
    memoryview
        For ``h5py.h5d.DatasetID.write_direct_chunk``.
    """
    library = _library()
    assert library is not None, "see `available`"
    image = np.ascontiguousarray(image)
    item = image.dtype.itemsize
    block_items = block_items or library.bshuf_default_block_size(item)
    out = np.empty(_HEADER + library.bshuf_compress_lz4_bound(image.size, item, block_items), "u1")
    out[:_HEADER] = np.frombuffer(
        image.nbytes.to_bytes(8, "big") + (block_items * item).to_bytes(4, "big"), "u1"
    )
    n_bytes = library.bshuf_compress_lz4(
        image.ctypes.data, out.ctypes.data + _HEADER, image.size, item, block_items
    )
    if n_bytes < 0:
        raise RuntimeError(f"bitshuffle-LZ4 failed with code {n_bytes} on {image.dtype} {image.shape}")
    return out.data[: _HEADER + n_bytes]

"""Compressed arrays of detectors and of HDF5 chunks: bitshuffle-LZ4 and LZ4, checked before memory is taken.

Both are what HDF5's filters 32008 and 32004 keep as a chunk, so that compressed frames go into files as they
are (wire reference eiger, section 7.7). The compiled functions are those of the filter library that
hdf5plugin ships, called directly: they hold neither the GIL nor HDF5's lock.
"""

from __future__ import annotations

import ctypes
import math
import struct
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError

_PREFIX: Final = 12  # uint64 size of the data in bytes, uint32 size of a block in bytes, both big-endian
_LENGTH: Final = struct.Struct(">I")
BLOCK_BYTES: Final = 8192
"""Bytes that a detector shuffles together."""

MAX_BLOCK: Final = 1 << 16
LARGEST_LZ4: Final = 1 << 30


@cache
def _library() -> ctypes.CDLL | None:
    """Return the filter library, or None where this build hides its functions."""
    spec = find_spec("hdf5plugin")
    places = spec.submodule_search_locations if spec is not None else None
    size, pointer, integer = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    for path in sorted(path for place in places or () for path in Path(place, "plugins").glob("*bshuf*")):
        try:
            library = ctypes.CDLL(str(path))
            for name in ("bshuf_compress_lz4", "bshuf_decompress_lz4"):
                function = getattr(library, name)
                function.restype, function.argtypes = ctypes.c_int64, [pointer, pointer, size, size, size]
            library.bshuf_compress_lz4_bound.restype = size
            library.bshuf_compress_lz4_bound.argtypes = [size, size, size]
            library.bshuf_default_block_size.restype = size
            library.bshuf_default_block_size.argtypes = [size]
            library.LZ4_decompress_safe.argtypes = [pointer, pointer, integer, integer]
            library.LZ4_compress_default.argtypes = [pointer, pointer, integer, integer]
        except (OSError, AttributeError):
            continue
        return library
    return None


def available() -> bool:
    """Whether arrays can be compressed and decompressed with this build of hdf5plugin."""
    return _library() is not None


def _need_library() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError("hdf5plugin's bitshuffle library does not export its functions in this build")
    return library


def _address(data: memoryview) -> int:
    return int(np.frombuffer(data, "u1").ctypes.data)


def compress_bslz4(image: npt.NDArray[Any], block_items: int = 0) -> memoryview:
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
        For ``h5py.h5d.DatasetID.write_direct_chunk``, and for a detector's stream.
    """
    library = _need_library()
    image = np.ascontiguousarray(image)
    item = image.dtype.itemsize
    block_items = block_items or library.bshuf_default_block_size(item)
    out = np.empty(_PREFIX + library.bshuf_compress_lz4_bound(image.size, item, block_items), "u1")
    out[:_PREFIX] = np.frombuffer(prefix(image.nbytes, block_items * item), "u1")
    n_bytes = library.bshuf_compress_lz4(
        image.ctypes.data, out.ctypes.data + _PREFIX, image.size, item, block_items
    )
    if n_bytes < 0:
        raise RuntimeError(f"bitshuffle-LZ4 failed with code {n_bytes} on {image.dtype} {image.shape}")
    return out.data[: _PREFIX + n_bytes]


def compress_lz4(image: npt.NDArray[Any], block_bytes: int = 0) -> bytes:
    """Return the bytes of an LZ4 chunk that holds `image`.

    Parameters
    ----------
    image : ndarray
        C-contiguous; little-endian, as the dataset it goes into.
    block_bytes : int
        Bytes that are compressed together; 0 makes one block of all. One that does not get smaller is plain.
    """
    library = _need_library()
    pixels = np.ascontiguousarray(image).reshape(-1).view("u1")
    block_bytes = block_bytes or pixels.size
    out = ctypes.create_string_buffer(max(block_bytes, 1))
    pieces = [prefix(pixels.size, block_bytes)]
    for start in range(0, max(pixels.size, 1), max(block_bytes, 1)):
        block = pixels[start : start + block_bytes]
        n_bytes = library.LZ4_compress_default(block.ctypes.data, out, block.size, block.size - 1)
        packed = ctypes.string_at(out, n_bytes) if n_bytes > 0 else block.tobytes()
        pieces += [len(packed).to_bytes(4, "big"), packed]
    return b"".join(pieces)


def compress_lz4_block(image: npt.NDArray[Any]) -> bytes:
    """Return `image` as one block of LZ4 without a prefix, as version 1 of a detector's stream has it."""
    pixels = np.ascontiguousarray(image).reshape(-1).view("u1")
    out = ctypes.create_string_buffer(pixels.size + pixels.size // 255 + 16)
    n_bytes = _need_library().LZ4_compress_default(pixels.ctypes.data, out, pixels.size, len(out))
    return ctypes.string_at(out, n_bytes)


def prefix(n_bytes: int, block_bytes: int) -> bytes:
    """Return what stands before the blocks: how large the data are, and a block of them, in bytes."""
    return n_bytes.to_bytes(8, "big") + block_bytes.to_bytes(4, "big")


@cache
def compiled_walk() -> Any:
    """Return compiled code that finds the end of blocks; call it before frames come: it takes a second."""
    from numba import njit, types

    data = types.Array(types.uint8, 1, "C", readonly=True)

    @njit(types.int64(data, types.int64, types.int64), nogil=True, cache=True)
    def walk(data, at, n_blocks):  # type: ignore[no-untyped-def] # numba has them
        for _ in range(n_blocks):
            if at + 4 > len(data):
                return at + 4
            length = types.int64(0)
            for k in range(4):
                length = length << 8 | data[at + k]
            at += 4 + length
        return at

    return walk


def _decompress_lz4(data: memoryview, image: npt.NDArray[Any], block: int) -> None:
    library, at, done, n_bytes = _need_library(), _PREFIX, 0, image.nbytes
    source, target = _address(data), image.ctypes.data
    while done < n_bytes:
        (n_in,), n_out = _LENGTH.unpack_from(data, at), min(block, n_bytes - done)
        at += 4
        if n_in == n_out:
            ctypes.memmove(target + done, source + at, n_in)
        elif library.LZ4_decompress_safe(source + at, target + done, n_in, n_out) != n_out:
            raise WireError(f"lz4: the block at byte {at} does not hold {n_out} bytes")
        at, done = at + n_in, done + n_out


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

    def check(self) -> None:
        """Raise WireError unless the bytes say of themselves what they should; quick, whatever their size."""
        algorithm, data, n_bytes, item = self.algorithm, self.data, self.n_bytes, self.dtype.itemsize
        if n_bytes > MAX_ARRAY:
            raise WireError(f"an array of {n_bytes} bytes, expected at most {MAX_ARRAY}")
        if algorithm == "none":
            if len(data) != n_bytes:
                raise WireError(f"{len(data)} bytes, expected {n_bytes}")
            return
        if algorithm not in ("bslz4", "lz4"):
            raise WireError(f"compression={algorithm[:80]!r}, expected none, bslz4 or lz4")
        said, block = int.from_bytes(data[:8], "big"), int.from_bytes(data[8:12], "big")
        if said != n_bytes or len(data) < _PREFIX:
            raise WireError(f"{algorithm} prefix of {said} bytes, expected {n_bytes}")
        if len(data) > n_bytes + n_bytes // 128 + (1 << 16):
            raise WireError(f"{len(data)} bytes of {algorithm}, expected fewer for {n_bytes}")
        if algorithm == "lz4":
            if not min(8 * item, max(n_bytes, 1)) <= block <= max(n_bytes, LARGEST_LZ4):
                raise WireError(f"lz4 blocks of {block} bytes, expected {8 * item} to {LARGEST_LZ4}")
        elif self.element_size != item or block % (8 * item) or not 8 * item <= block <= MAX_BLOCK:
            raise WireError(
                f"bslz4 of elements of {self.element_size} bytes in blocks of {block}, expected {item} in "
                f"blocks of a multiple of {8 * item} up to {MAX_BLOCK}"
            )

    def check_blocks(self) -> None:
        """Raise WireError unless the blocks end where the bytes do; `check` is called before.

        What a block holds is not looked at, and nothing is decompressed. Takes 0.4 ms for the 4400 blocks of
        a 16M, and 0.03 ms without the GIL once `compiled_walk` was called.
        """
        if self.algorithm == "none":
            return
        data, n_bytes = self.data, self.n_bytes
        block = int.from_bytes(data[8:12], "big")
        n_blocks, rest = divmod(n_bytes, block)
        # elements are shuffled by eight; others are plain
        shuffled = 8 * self.dtype.itemsize if self.algorithm == "bslz4" else 1
        n_blocks += rest >= shuffled
        at, end, length_at = _PREFIX, len(data) - rest % shuffled, _LENGTH.unpack_from
        if compiled_walk.cache_info().currsize:
            at = compiled_walk()(np.frombuffer(data, "u1"), at, n_blocks)
        else:
            try:
                for _ in range(n_blocks):
                    at += 4 + length_at(data, at)[0]
            except struct.error:
                at += 4  # there is no length any more
        if at != end:
            raise WireError(f"{self.algorithm}: {n_blocks} blocks end at byte {at} of {end}")

    def unpack(self) -> npt.NDArray[Any]:
        """Return the numbers, decompressed; where nothing was compressed, a view of the message.

        Raises
        ------
        WireError
            The bytes are not what they say they are.
        """
        if self.shape == (-1,):  # compressed and without rows: its prefix tells
            said = int.from_bytes(self.data[:8], "big")
            if said > MAX_ARRAY or said % self.dtype.itemsize:
                most = f"at most {MAX_ARRAY}, a multiple of {self.dtype.itemsize}"
                raise WireError(f"an array of {said} bytes, expected {most}")
            return replace(self, shape=(said // self.dtype.itemsize,)).unpack()
        self.check()
        if self.algorithm == "none":
            return np.frombuffer(self.data, self.dtype).reshape(self.shape)
        self.check_blocks()  # the library reads as far as they say
        image, block = np.empty(self.shape, self.dtype), int.from_bytes(self.data[8:12], "big")
        if self.algorithm == "lz4":
            _decompress_lz4(self.data, image, block)
            return image
        item, data = image.itemsize, _address(self.data) + _PREFIX
        n_read = _need_library().bshuf_decompress_lz4(
            data, image.ctypes.data, image.size, item, block // item
        )
        if n_read != len(self.data) - _PREFIX:
            raise WireError(f"bslz4: {n_read} bytes were read of {len(self.data) - _PREFIX}")
        return image

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.unpack(), dtype, copy=copy)

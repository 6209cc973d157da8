"""CBOR as detectors send it: a decoder with bounds that copies no array, and an encoder true to the byte.

Arrays (RFC 8746 tags, DECTRIS' tag 56500 for compressed bytes) become `ArrayBytes`, views of the message;
see the wire reference eiger, section 7.3. A library would copy every byte string, and takes sizes on trust.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..errors import WireError
from .compression import ArrayBytes

SELF_DESCRIBED: Final = bytes.fromhex("d9d9f7")
"""Tag 55799, before every message of a detector."""

MAX_DEPTH: Final = 16
MAX_ITEMS: Final = 1 << 14
MAX_KEYS: Final = 256
MAX_KEY: Final = 64
MAX_TEXT: Final = 1 << 20
"""Bounds of one message: nesting, items, keys of a map, bytes of a key, of a text."""

_DATE, _MATRIX, _COMPRESSED, _SELF = 0, 40, 56500, 55799
_TYPED_ARRAYS: Final[dict[int, np.dtype[Any]]] = {
    64: np.dtype("u1"),
    65: np.dtype(">u2"),
    66: np.dtype(">u4"),
    67: np.dtype(">u8"),
    68: np.dtype("u1"),  # clamped: the same bytes
    69: np.dtype("<u2"),
    70: np.dtype("<u4"),
    71: np.dtype("<u8"),
    72: np.dtype("i1"),
    73: np.dtype(">i2"),
    74: np.dtype(">i4"),
    75: np.dtype(">i8"),
    77: np.dtype("<i2"),
    78: np.dtype("<i4"),
    79: np.dtype("<i8"),
    80: np.dtype(">f2"),
    81: np.dtype(">f4"),
    82: np.dtype(">f8"),
    84: np.dtype("<f2"),
    85: np.dtype("<f4"),
    86: np.dtype("<f8"),
}
_TAGS: Final = {dtype: tag for tag, dtype in reversed(_TYPED_ARRAYS.items())}


class Date(str):
    """A date as text (tag 0), RFC 3339: ``"2024-03-07T14:43:35.200+01:00"``."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """Bytes of tag 56500, outside of an array too."""

    algorithm: str
    element_size: int
    data: memoryview


_HEAD = {24: struct.Struct(">B"), 25: struct.Struct(">H"), 26: struct.Struct(">I"), 27: struct.Struct(">Q")}
_FLOATS = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}
_SIMPLE = {20: False, 21: True, 22: None, 23: None}
_BREAK: Final = 0xFF


class _Decoder:
    """One pass over one message."""

    def __init__(self, data: memoryview, tolerant: bool = False):
        self.data, self.at, self.n_items, self.tolerant = data, 0, 0, tolerant

    def item(self, depth: int) -> object:
        """Return the next item."""
        self.n_items += 1
        if depth > MAX_DEPTH or self.n_items > MAX_ITEMS:
            what = f"nested deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else f"more than {MAX_ITEMS} items"
            raise WireError(f"CBOR: {what} at byte {self.at}")
        first = self.data[self.at]
        self.at += 1
        major, n = first >> 5, first & 31
        if n >= 24:
            if major == 7:
                return self._simple(n)
            if n == 31 and major in (4, 5):
                return self._endless(major, depth)
            if n > 27:
                raise WireError(f"CBOR: byte {first:#x} at {self.at - 1}, expected a definite length")
            head = _HEAD[n]
            (n,) = head.unpack_from(self.data, self.at)
            self.at += head.size
        if major == 0:
            return n
        if major == 3:
            return self._text(n, MAX_TEXT)
        if major == 2:
            return self._bytes(n)
        if major == 4:
            self._check_length(n, MAX_ITEMS)
            return [self.item(depth + 1) for _ in range(n)]
        if major == 5:
            return self._map(n, depth)
        if major == 6:
            return self._tag(n, depth)
        if major == 1:
            return -1 - n
        return self._simple(n)

    def _simple(self, n: int) -> object:
        if n in _SIMPLE:
            return _SIMPLE[n]
        if n in _FLOATS:
            kind = _FLOATS[n]
            (value,) = kind.unpack_from(self.data, self.at)
            self.at += kind.size
            return value
        raise WireError(f"CBOR: simple value {n} at byte {self.at - 1}, expected a float, boolean or null")

    def _check_length(self, n: int, most: int) -> None:
        if n > most or n > len(self.data) - self.at:
            left = len(self.data) - self.at
            raise WireError(f"CBOR: {n} items or bytes at byte {self.at}, expected at most {min(most, left)}")

    def _bytes(self, n: int) -> memoryview:
        self._check_length(n, len(self.data))
        start, self.at = self.at, self.at + n
        return self.data[start : self.at]

    def _text(self, n: int, most: int) -> str:
        self._check_length(n, most)
        start, self.at = self.at, self.at + n
        return str(self.data[start : self.at], "utf-8")

    def _key(self) -> str:
        first = self.data[self.at]
        if 0x60 <= first < 0x78:  # a short text, as nearly all keys are
            start, self.at = self.at + 1, self.at + first - 0x5F
            return str(self.data[start : self.at], "utf-8")
        key = self.item(MAX_DEPTH)
        if not isinstance(key, str) or len(key) > MAX_KEY:
            raise WireError(f"CBOR: key {str(key)[:80]!r}, expected text of at most {MAX_KEY} bytes")
        return key

    def _map(self, n: int, depth: int) -> dict[str, object]:
        self._check_length(n, MAX_KEYS)
        items: dict[str, object] = {}
        for _ in range(n):
            key = self._key()
            items[key] = self.item(depth + 1)
        if len(items) != n:
            raise WireError(f"CBOR: a map with a key twice; its keys are {', '.join(items)}")
        return items

    def _endless(self, major: int, depth: int) -> object:
        values: list[object] = []
        while self.data[self.at] != _BREAK:
            values.append(self.item(depth + 1))
        self.at += 1
        if major == 4:
            return values
        keys = values[::2]
        if len(values) % 2 or len(keys) > MAX_KEYS or not all(isinstance(key, str) for key in keys):
            raise WireError(f"CBOR: a map of {len(values)} items, expected pairs of text and value")
        return dict(zip(map(str, keys), values[1::2]))

    def _tag(self, tag: int, depth: int) -> object:
        value = self.item(depth + 1)
        if isinstance(value, WireError):
            return value  # of the array inside
        try:
            return self._tagged(tag, value)
        except WireError as exc:
            if not self.tolerant:
                raise
            return exc

    def _tagged(self, tag: int, value: object) -> object:
        if tag == _DATE:
            return Date(value) if isinstance(value, str) else value
        if tag == _COMPRESSED:
            return _compressed(value)
        if tag in _TYPED_ARRAYS:
            return _typed_array(_TYPED_ARRAYS[tag], value)
        if tag == _MATRIX:
            return _matrix(value)
        if tag == 1040 or 64 <= tag <= 87:
            raise WireError(
                f"CBOR: tag {tag}, expected an array of rows, of integers or floats up to 64 bits"
            )
        return value  # one that nobody told of: what it marks is what it was


def _compressed(value: object) -> Compressed:
    if isinstance(value, list) and len(value) == 3:
        algorithm, element_size, data = value
        if isinstance(algorithm, str) and type(element_size) is int and isinstance(data, memoryview):
            return Compressed(algorithm, element_size, data)
    raise WireError(f"CBOR: tag {_COMPRESSED} with {_kind(value)}, expected [algorithm, element size, bytes]")


def _typed_array(dtype: np.dtype[Any], value: object) -> ArrayBytes:
    if isinstance(value, memoryview):
        if len(value) % dtype.itemsize:
            raise WireError(f"CBOR: {len(value)} bytes of {dtype}, expected a multiple of {dtype.itemsize}")
        return ArrayBytes((len(value) // dtype.itemsize,), dtype, "none", 0, value)
    if isinstance(value, Compressed):
        return ArrayBytes((-1,), dtype, value.algorithm, value.element_size, value.data)
    raise WireError(f"CBOR: an array of {dtype} with {_kind(value)}, expected bytes or compressed bytes")


def _matrix(value: object) -> ArrayBytes:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], WireError):
        raise value[1]
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], ArrayBytes):
        size, array = value
        if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
            shape = size[0], size[1]
            return ArrayBytes(shape, array.dtype, array.algorithm, array.element_size, array.data)
    raise WireError(f"CBOR: tag {_MATRIX} with {_kind(value)}, expected [[rows, columns], typed array]")


def _kind(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"


def decode(data: bytes | memoryview, *, tolerant: bool = False) -> object:
    """Return what a message holds.

    Parameters
    ----------
    data : bytes or memoryview
        One item, with or without tag 55799 before it.
    tolerant : bool
        Whether an array that makes no sense is returned as its WireError, beside everything else.

    Returns
    -------
    object
        dict, list, str, int, float, bool, None, `Date`, `ArrayBytes`, `Compressed`, or a view of the bytes.
        Indefinite lengths are taken of arrays and maps; tags that are not known are left out.

    Raises
    ------
    WireError
        Not CBOR, cut short, or beyond the bounds of this module; bytes are never copied or decompressed.
    """
    view = memoryview(data).cast("B")
    decoder = _Decoder(view, tolerant)
    try:
        value = decoder.item(0)
    except (IndexError, struct.error):
        raise WireError(f"CBOR: {len(view)} bytes end in the middle of an item") from None
    except UnicodeDecodeError as exc:
        raise WireError(f"CBOR: text that is not UTF-8: {exc}") from None
    if decoder.at != len(view):
        raise WireError(f"CBOR: {len(view)} bytes, of which the first item takes {decoder.at}")
    return value


def encode(value: object) -> bytes:
    """Return the bytes of a value, tag 55799 before them, as a detector sends them.

    Parameters
    ----------
    value : object
        What `decode` returns; numpy arrays of one or two dimensions as well. Integers and floats take their
        shortest exact form, and a float stays a float.
    """
    parts: list[bytes | memoryview] = [SELF_DESCRIBED]
    _encode(value, parts)
    return b"".join(parts)


def _head(major: int, n: int) -> bytes:
    if n < 24:
        return bytes([major << 5 | n])
    code = 24 if n < 1 << 8 else 25 if n < 1 << 16 else 26 if n < 1 << 32 else 27
    return bytes([major << 5 | code]) + _HEAD[code].pack(n)


def _float(value: float) -> bytes:
    if math.isnan(value):
        return b"\xf9\x7e\x00"
    for code, kind in _FLOATS.items():
        try:
            packed = kind.pack(value)
        except OverflowError:
            continue
        if kind.unpack(packed)[0] == value:
            return bytes([7 << 5 | code]) + packed
    raise AssertionError("a float fits 64 bits")


def _encode(value: object, parts: list[bytes | memoryview]) -> None:
    if value is None or isinstance(value, bool):
        parts.append({None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value])
    elif isinstance(value, int):
        parts.append(_head(0, value) if value >= 0 else _head(1, -1 - value))
    elif isinstance(value, float):
        parts.append(_float(value))
    elif isinstance(value, str):
        text = value.encode()
        parts += [_head(6, _DATE)] if isinstance(value, Date) else []
        parts += [_head(3, len(text)), text]
    elif isinstance(value, bytes | memoryview):
        parts += [_head(2, len(value)), value]
    elif isinstance(value, Mapping):
        parts.append(_head(5, len(value)))
        for key, item in value.items():
            _encode(key, parts)
            _encode(item, parts)
    elif isinstance(value, Compressed):
        parts.append(_head(6, _COMPRESSED))
        _encode([value.algorithm, value.element_size, value.data], parts)
    elif isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value).data.cast("B")
        _encode_array(ArrayBytes(value.shape, value.dtype, "none", 0, data), parts)
    elif isinstance(value, ArrayBytes):
        _encode_array(value, parts)
    elif isinstance(value, Sequence):
        parts.append(_head(4, len(value)))
        for item in value:
            _encode(item, parts)
    else:
        raise TypeError(f"{type(value).__name__} has no form in CBOR here")


def _encode_array(array: ArrayBytes, parts: list[bytes | memoryview]) -> None:
    if len(array.shape) == 2:
        parts += [_head(6, _MATRIX), _head(4, 2)]
        _encode(list(array.shape), parts)
    parts.append(_head(6, _TAGS[array.dtype]))
    plain = array.algorithm == "none"
    _encode(array.data if plain else Compressed(array.algorithm, array.element_size, array.data), parts)

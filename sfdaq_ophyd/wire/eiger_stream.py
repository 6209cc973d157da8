"""Messages of the Eiger's stream: version 2 (CBOR, one message per frame), and version 1 (JSON, multipart).

Decoding looks at headers only and copies no pixels: the arrays of a message are views of it, compressed as
they came. See the wire reference eiger, section 7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from ..errors import WireError
from . import compression
from .array_bytes import MAX_ARRAY, ArrayBytes
from .cbor import decode, encode
from .eiger_messages import (
    FrameRefused,
    LegacyEnd,
    LegacyImage,
    LegacyMessage,
    LegacyStart,
    Message,
    SeriesEnd,
    SeriesImage,
    SeriesStart,
    UnknownMessage,
)
from .json_text import HeaderReader, load_header
from .tiff import parse_time_ns

MAX_CHANNELS: Final = 4
MAX_SIDE: Final = 16384
TICKS: Final = 50_000_000
"""Per second, of an Eiger's clock."""

_DTYPES: Final = {"uint8": "u1", "uint16": "<u2", "uint32": "<u4"}
_START_DTYPES: Final = _DTYPES | {"int8": "i1", "int16": "<i2", "int32": "<i4"}
"""The signed ones are of others that send this format."""
_ZONED: Final = re.compile(r"([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
"""How a date ends that can be told apart from one of any other zone."""


def decode_message(data: bytes | memoryview) -> Message:
    """Return what one message of version 2 says.

    Parameters
    ----------
    data : bytes or memoryview
        One ZeroMQ frame. Arrays of the result are views of it.

    Raises
    ------
    UnknownMessage
        A type that is not known.
    FrameRefused
        An image with its ids, but without any array that can be right.
    WireError
        Anything else: not CBOR, not a map, a field that is not there or of the wrong kind.
    """
    fields = decode(data, tolerant=True)
    if not isinstance(fields, dict):
        raise WireError(f"stream message: {type(fields).__name__}, expected a map with a type")
    kind = fields.get("type")
    if kind == "image":
        return _image(fields)
    if kind == "end":
        return SeriesEnd(_integer(fields, "series_id"), _unique_id(fields))
    if kind == "start":
        return _start(fields)
    if not isinstance(kind, str):
        raise WireError(f"stream message: type={str(kind)[:80]!r}, expected start, image or end")
    raise UnknownMessage(f"stream message: type={kind[:80]!r}, expected start, image or end")


def _wrong(name: str, value: object, expected: str) -> WireError:
    return WireError(f"stream message: {name}={str(value)[:80]!r}, expected {expected}")


def _integer(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 0:
        raise _wrong(name, value, "an integer from 0")
    return value


def _unique_id(fields: Mapping[str, object]) -> str:
    value = fields.get("series_unique_id")
    if not isinstance(value, str) or not 0 < len(value) <= 64 or not value.isprintable():
        raise _wrong("series_unique_id", value, "text of at most 64 characters")
    return value


def _image(fields: Mapping[str, object]) -> SeriesImage:
    series_id, series = _integer(fields, "series_id"), _unique_id(fields)
    image_id = _integer(fields, "image_id")
    data = fields.get("data")
    if not isinstance(data, dict) or not 0 < len(data) <= MAX_CHANNELS:
        wrong = _wrong("data", data, f"a map of 1 to {MAX_CHANNELS} channels")
        raise FrameRefused(series, image_id, str(wrong))
    refused: dict[str, str] = {}
    for channel, array in data.items():
        try:
            _check_image(channel, array)
        except WireError as exc:
            refused[channel] = str(exc)
    if len(refused) == len(data):
        raise FrameRefused(series, image_id, "; ".join(refused.values()))
    return SeriesImage(
        series_id=series_id,
        series_unique_id=series,
        image_id=image_id,
        data={channel: array for channel, array in data.items() if channel not in refused},
        refused=refused,
        series_date_ns=_date(fields.get("series_date")),
        start_time=_rational(fields.get("start_time")),
        stop_time=_rational(fields.get("stop_time")),
        real_time=_rational(fields.get("real_time")),
        user_data=fields.get("user_data"),
    )


def _check_image(channel: str, array: object) -> None:
    if isinstance(array, WireError):
        raise WireError(f"data of {channel}: {array}")
    if not isinstance(array, ArrayBytes) or len(array.shape) != 2 or array.dtype.kind not in "iu":
        raise _wrong(f"data of {channel}", type(array).__name__, "rows of integers")
    if not 0 < min(array.shape) or max(array.shape) > MAX_SIDE or array.n_bytes > MAX_ARRAY:
        raise _wrong(f"data of {channel}", array.shape, f"up to {MAX_SIDE} pixels a side")
    try:
        compression.check(
            array.algorithm, array.element_size, array.data, array.n_bytes, array.dtype.itemsize
        )
    except WireError as exc:
        raise WireError(f"data of {channel}: {exc}") from exc


def _rational(value: object) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2:
        numerator, denominator = value
        if type(numerator) is int and type(denominator) is int and denominator > 0 and numerator >= 0:
            return numerator, denominator
    return None


def _date(value: object) -> int | None:
    """Return ns since the epoch; None where there is no date that can be read."""
    return _date_ns(str(value)) if isinstance(value, str) else None


@lru_cache(maxsize=64)
def _date_ns(text: str) -> int | None:
    try:
        return parse_time_ns(text.upper()) if _ZONED.search(text) else None
    except WireError:
        return None


def _start(fields: dict[str, object]) -> SeriesStart:
    rest = dict(fields)
    channels = rest.pop("channels", None)
    if not isinstance(channels, list) or not 0 < len(channels) <= MAX_CHANNELS:
        raise _wrong("channels", channels, f"1 to {MAX_CHANNELS} names")
    if not all(isinstance(channel, str) and channel for channel in channels):
        raise _wrong("channels", channels, "names")
    shape = _integer(fields, "image_size_y"), _integer(fields, "image_size_x")
    if not 0 < min(shape) or max(shape) > MAX_SIDE:
        raise _wrong("image_size_y, image_size_x", shape, f"1 to {MAX_SIDE}")
    dtype = fields.get("image_dtype")
    if dtype is not None and (not isinstance(dtype, str) or dtype not in _START_DTYPES):
        raise _wrong("image_dtype", dtype, f"one of {', '.join(_START_DTYPES)}")
    tables = {
        name: array
        for table in ("pixel_mask", "flatfield")
        for name, array in _by_channel(table, rest.pop(table, None))
    }
    lookup = rest.pop("countrate_correction_lookup_table", None)
    if isinstance(lookup, ArrayBytes):
        tables["countrate_correction_lookup_table"] = lookup
    n_images = fields.get("number_of_images")
    return SeriesStart(
        series_id=_integer(fields, "series_id"),
        series_unique_id=_unique_id(fields),
        number_of_images=n_images if type(n_images) is int and n_images >= 0 else None,
        channels=tuple(channels),
        shape=shape,
        dtype=None if dtype is None else np.dtype(_START_DTYPES[dtype]),
        arm_date_ns=_date(rest.get("arm_date")),
        tables=tables,
        user_data=rest.pop("user_data", None),
        fields={name: value for name, value in rest.items() if not isinstance(value, WireError | None)},
    )


def _by_channel(table: str, arrays: object) -> list[tuple[str, ArrayBytes]]:
    items = arrays.items() if isinstance(arrays, dict) else ()
    return [(f"{table}/{channel}", array) for channel, array in items if isinstance(array, ArrayBytes)]


def encode_message(fields: Mapping[str, object]) -> bytes:
    """Return the bytes of a message of version 2, as a detector sends it.

    Parameters
    ----------
    fields : Mapping[str, object]
        In the order in which they are sent, ``type`` first; dates as `sfdaq_ophyd.wire.cbor.Date`, arrays as
        ndarray or `ArrayBytes`.
    """
    return encode(fields)


# Version 1: JSON parts and blobs


_TABLES: Final = ("dflatfield-1.0", "dpixelmask-1.0", "dcountrate_table-1.0")
_LEGACY_DTYPES: Final = _DTYPES | {"float32": "<f4", "int32": "<i4"}
_ENCODING: Final = re.compile(r"(?:bs(8|16|32)-)?(lz4)?([<>])")


def decode_legacy(parts: Sequence[bytes | memoryview]) -> LegacyMessage:
    """Return what one whole multipart message of version 1 says.

    Parameters
    ----------
    parts : sequence of bytes or memoryview
        All of its parts; arrays of the result are views of them. The `hash` of an image is of its header
        alone and is not looked at.

    Raises
    ------
    UnknownMessage
        An ``htype`` that is not known.
    WireError
        Parts that are missing, are not JSON, or do not fit each other.
    """
    if not parts:
        raise WireError("stream message: no part, expected a header")
    head = load_header(parts[0], "stream message")
    kind, series = head.get("htype"), _integer(head, "series")
    if kind == "dseries_end-1.0":
        return LegacyEnd(series)
    if kind == "dheader-1.0":
        return _legacy_start(series, head, parts)
    if kind == "dimage-1.0":
        return _legacy_image(series, head, parts)
    raise UnknownMessage(f"stream message: htype={str(kind)[:80]!r}, expected dheader, dimage or dseries_end")


def _legacy_start(series: int, head: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> LegacyStart:
    detail = str(head.get("header_detail", "none"))
    config = load_header(parts[1], "stream header") if len(parts) > 1 else {}
    tables: dict[str, ArrayBytes] = {}
    at = 2
    while at + 1 < len(parts):
        about = load_header(parts[at], "stream header")
        if (kind := about.get("htype")) not in _TABLES:
            break
        read = HeaderReader(about, "stream header")
        dtype = np.dtype(_LEGACY_DTYPES.get(read.text("type"), "V"))
        array = ArrayBytes(
            tuple(read.integers("shape", 2))[::-1], dtype, "none", 0, memoryview(parts[at + 1])
        )
        if dtype.kind == "V" or len(array.data) != array.n_bytes:
            raise _wrong(str(kind), about, f"{array.n_bytes} bytes of {', '.join(_LEGACY_DTYPES)}")
        tables[str(kind).removeprefix("d").removesuffix("-1.0")] = array
        at += 2
    appendix = _maybe_json(parts[at]) if at < len(parts) else None
    return LegacyStart(
        series_id=series, header_detail=detail, config=config, tables=tables, appendix=appendix
    )


def _legacy_image(series: int, head: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> LegacyImage:
    if len(parts) not in (4, 5):
        raise WireError(f"stream image of {len(parts)} parts, expected 4 or 5")
    image_id = _integer(head, "frame")
    read = HeaderReader(load_header(parts[1], "stream image"), "stream image")
    times = HeaderReader(load_header(parts[3], "stream image"), "stream image")
    name, encoding = read.text("type"), read.text("encoding")
    if name not in _DTYPES:
        raise read.wrong("type", name, f"one of {', '.join(_DTYPES)}")
    if (found := _ENCODING.fullmatch(encoding)) is None:
        raise read.wrong("encoding", encoding, "like 'bs16-lz4<', 'lz4<' or '<'")
    bits, lz4, order = found.groups()
    dtype = np.dtype(_DTYPES[name]).newbyteorder("<" if order == "<" else ">")
    algorithm = ("bslz4" if bits else "lz4 block") if lz4 else "none"
    shape = tuple(read.integers("shape", 2))[::-1]
    array = ArrayBytes(shape, dtype, algorithm, int(bits or 0) // 8, memoryview(parts[2]))
    _check_image("the image", array)
    return LegacyImage(
        series_id=series,
        image_id=image_id,
        data=array,
        start_time=times.integer("start_time"),
        stop_time=times.integer("stop_time"),
        real_time=times.integer("real_time"),
        appendix=_maybe_json(parts[4]) if len(parts) == 5 else None,
    )


def _maybe_json(part: bytes | memoryview) -> object:
    try:
        return load_header(part, "appendix")
    except WireError:
        return bytes(part).decode("utf-8", "replace")

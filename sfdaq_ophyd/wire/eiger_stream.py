"""Messages of the Eiger's stream: version 2 (CBOR, one message per frame), and version 1 (JSON, multipart).

Decoding looks at headers only and copies no pixels: the arrays of a message are views of it, compressed as
they came. See the wire reference eiger, section 7.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeGuard

import numpy as np

from ..errors import WireError
from .cbor import decode, encode
from .compression import MAX_ARRAY, ArrayBytes, prefix
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

_CHANNEL: Final = re.compile(r"\w[\w.-]{0,63}")
"""Name of a channel whose tables are kept: it is part of a path in files."""


class UnknownMessage(WireError):
    """A message is whole and of a type that is not known; others follow."""


class FrameRefused(WireError):
    """An image message is whole, and none of its arrays can be right.

    Parameters
    ----------
    series : str
        Unique id of the series.
    image_id : int
    reason : str
        What is wrong: field, value and what was expected.
    """

    def __init__(self, series: str, image_id: int, reason: str):
        super().__init__(f"image {image_id} of series {series}: {reason}")
        self.series, self.image_id, self.reason = series, image_id, reason


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesStart:
    """What holds for all images of a series.

    Attributes
    ----------
    series_id : int
        The sequence id that arming replied; it starts again when the detector is initialized.
    series_unique_id : str
        The series' own, for ever.
    number_of_images : int or None
        Of the whole series.
    channels : tuple of str
        Thresholds in use, in the order of the images' data.
    shape : tuple of int
        (y, x).
    dtype : numpy.dtype or None
        Of the images; older firmware does not tell.
    tables : Mapping[str, ArrayBytes]
        ``"pixel_mask/threshold_1"``, ``"flatfield/threshold_1"``, ``"countrate_correction_lookup_table"``: as
        far as they were sent, and readable.
    user_data : object
        What was put into ``header_appendix``; None if nothing.
    fields : Mapping[str, object]
        Everything else, by its name.
    """

    series_id: int
    series_unique_id: str
    number_of_images: int | None
    channels: tuple[str, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any] | None
    tables: Mapping[str, ArrayBytes] = field(default_factory=dict)
    user_data: object = None
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesImage:
    """One exposure, of all thresholds.

    Attributes
    ----------
    series_id, series_unique_id, image_id
        Which; images are counted from 0 over a series.
    data : Mapping[str, ArrayBytes]
        By channel. Checked: shapes, lengths, and what compressed bytes say of themselves.
    refused : Mapping[str, str]
        Channels whose array cannot be right, and why; another one is.
    series_date_ns : int or None
        When the series began, ns since the epoch.
    start_time, stop_time, real_time : (int, int) or None
        s since then, and how long the detector counted, as numerator and denominator.
    user_data : object
        What was put into ``image_appendix``.
    """

    series_id: int
    series_unique_id: str
    image_id: int
    data: Mapping[str, ArrayBytes]
    refused: Mapping[str, str] = field(default_factory=dict)
    series_date_ns: int | None = None
    start_time: tuple[int, int] | None = None
    stop_time: tuple[int, int] | None = None
    real_time: tuple[int, int] | None = None
    user_data: object = None

    @property
    def time_ns(self) -> int | None:
        """When the exposure began by the detector's clock, ns since the epoch; None if it does not tell."""
        if self.series_date_ns is None or self.start_time is None:
            return None
        numerator, denominator = self.start_time
        return self.series_date_ns + 10**9 * numerator // denominator


@dataclass(frozen=True, slots=True)
class SeriesEnd:
    """No image follows; how many there were is not told."""

    series_id: int
    series_unique_id: str


Message: TypeAlias = SeriesStart | SeriesImage | SeriesEnd


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
        array.check()
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
    if _is_table(lookup):
        tables["countrate_correction_lookup_table"] = lookup
    n_images = fields.get("number_of_images")
    return SeriesStart(
        series_id=_integer(fields, "series_id"),
        series_unique_id=_unique_id(fields),
        number_of_images=n_images if type(n_images) is int and n_images >= 0 else None,
        channels=tuple(channels),
        shape=shape,
        dtype=None if dtype is None else np.dtype(_START_DTYPES[dtype]),
        tables=tables,
        user_data=rest.pop("user_data", None),
        fields={name: value for name, value in rest.items() if not isinstance(value, WireError | None)},
    )


def _by_channel(table: str, arrays: object) -> list[tuple[str, ArrayBytes]]:
    items = arrays.items() if isinstance(arrays, dict) and len(arrays) <= MAX_CHANNELS else ()
    return [
        (f"{table}/{channel}", array)
        for channel, array in items
        if _CHANNEL.fullmatch(channel) and _is_table(array)
    ]


def _is_table(array: object) -> TypeGuard[ArrayBytes]:
    """Whether it is an array that holds something, and not too much."""
    if not isinstance(array, ArrayBytes):
        return False
    if array.shape == (-1,):  # compressed and without rows: its prefix tells
        return 0 < int.from_bytes(array.data[:8], "big") <= MAX_ARRAY
    return 0 < min(array.shape) and array.n_bytes <= MAX_ARRAY


def encode_message(fields: Mapping[str, object]) -> bytes:
    """Return the bytes of a message of version 2, as a detector sends it.

    Parameters
    ----------
    fields : Mapping[str, object]
        In the order in which they are sent, ``type`` first; dates as `sfdaq_ophyd.wire.cbor.Date`, arrays as
        ndarray or `ArrayBytes`.
    """
    return encode(fields)


# Version 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LegacyImage:
    """One image of version 1; its times are ns since the detector was initialized, no date is told.

    Attributes
    ----------
    series_id, image_id
        Which.
    data : ArrayBytes
        The pixels.
    start_time, stop_time, real_time : int
        ns.
    appendix : object
        What was put into ``image_appendix``, if it was JSON.
    """

    series_id: int
    image_id: int
    data: ArrayBytes
    start_time: int
    stop_time: int
    real_time: int
    appendix: object = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LegacyStart:
    """The header of a series of version 1.

    Attributes
    ----------
    series_id : int
    header_detail : str
        ``"all"``, ``"basic"`` or ``"none"``.
    config : Mapping[str, object]
        The detector's configuration; empty without header.
    tables : Mapping[str, ArrayBytes]
        ``"flatfield"``, ``"pixelmask"``, ``"countrate_table"``, as far as they were sent.
    appendix : object
        What was put into ``header_appendix``; None if nothing.
    """

    series_id: int
    header_detail: str
    config: Mapping[str, object] = field(default_factory=dict)
    tables: Mapping[str, ArrayBytes] = field(default_factory=dict)
    appendix: object = None


@dataclass(frozen=True, slots=True)
class LegacyEnd:
    """No image of this series follows."""

    series_id: int


LegacyMessage: TypeAlias = LegacyStart | LegacyImage | LegacyEnd


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
    algorithm = ("bslz4" if bits else "lz4") if lz4 else "none"
    shape, data = tuple(read.integers("shape", 2))[::-1], memoryview(parts[2])
    if algorithm == "lz4":  # one block, without what says how large it is
        n_bytes = math.prod(shape) * dtype.itemsize
        if not 0 < n_bytes <= MAX_ARRAY:
            raise read.wrong("shape", list(shape), f"an image of 1 to {MAX_ARRAY} bytes")
        data = memoryview(prefix(n_bytes, n_bytes) + len(data).to_bytes(4, "big") + data)
    array = ArrayBytes(shape, dtype, algorithm, int(bits or 0) // 8, data)
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

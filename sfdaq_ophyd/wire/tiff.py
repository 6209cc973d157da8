"""Read the TIFF of the SIMPLON monitor: pixels without a copy, ids and times by the private IFD.

Source: SIMPLON 1.8 API reference, "Monitor images"; wire reference eiger, section 6. The private IFD is found
through tag 51192, never by fixed offsets; the pixels are a view of the bytes, so the cost does not grow with
the frame.

Times as SIMPLON writes them, to integer nanoseconds and back.

float64 seconds resolve only 0.24 us today, so the fraction is kept apart until the last step.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import WireError

_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2})(?:[.,](\d{1,12}))?\s*(Z|z|[+-]\d{2}:?\d{2})?\Z", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time_ns(text: str) -> int:
    """Return ns since the epoch; WireError if `text` is not a full date and time.

    Both forms in use are taken: ``2024-05-14T08:59:56.123456789Z`` and ``2024-05-14T10:59:56.123+02:00``.
    A time without an offset is UTC.

    Examples
    --------
    >>> parse_time_ns("2024-05-14T10:59:56.123+02:00")
    1715677196123000000
    """
    match = _TIME.match(text.strip())
    if match is None:
        raise WireError(f"not a time: {text[:80]!r}, expected such as 2024-05-14T08:59:56.123456789Z")
    whole, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(whole.replace(" ", "T")).replace(tzinfo=_zone(offset))
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError) as exc:
        raise WireError(f"not a time: {text[:80]!r} ({exc})") from exc
    return seconds * 10**9 + int((fraction or "0").ljust(9, "0")[:9])


def format_time_ns(time_ns: int, *, offset_minutes: int | None = None) -> str:
    """Write a time: ns and ``Z``, or, with an offset, ms and ``+hh:mm`` of local time.

    Examples
    --------
    >>> format_time_ns(1715677196123456789)
    '2024-05-14T08:59:56.123456789Z'
    >>> format_time_ns(1715677196123000000, offset_minutes=120)
    '2024-05-14T10:59:56.123+02:00'
    """
    seconds, fraction = divmod(time_ns, 10**9)
    if offset_minutes is None:
        return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S") + f".{fraction:09d}Z"
    zone = timezone(timedelta(minutes=offset_minutes))
    moment = (_EPOCH + timedelta(seconds=seconds, milliseconds=fraction // 10**6)).astimezone(zone)
    return moment.isoformat(timespec="milliseconds")


def _zone(offset: str | None) -> timezone:
    if offset is None or offset in "Zz":
        return UTC
    sign = -1 if offset[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[-2:])))


Bytes = bytes | bytearray | memoryview | npt.NDArray[Any]
"""What can be read without a copy."""

_Value = bytes | tuple[float, ...]
_Entries = dict[int, _Value]

MAGIC = b"II*\0"
"""How a little-endian TIFF begins."""

PRIVATE_IFD = 51192
"""Tag whose value is the file offset of the private IFD."""

MAX_ENTRIES = 512
"""An IFD with more entries is refused."""

MAX_IFDS = 16
"""A chain of IFDs longer than this is refused."""

_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d"}
_MAX_VALUES = 4096

PRIVATE_TAGS = {
    0x0000: "ifd_version",
    0x0001: "series_unique_id",
    0x0002: "series_id",
    0x0003: "image_id",
    0x0004: "date_time",
    0x0005: "threshold_id",
    0x0006: "threshold_energy_ev",
    0x0007: "exposure_time",
    0x0009: "incident_energy_ev",
    0x000A: "wavelength_angstrom",
    0x0012: "n_lost_pixels",
    0x0016: "beam_center",
    0x0017: "detector_distance",
}
"""Names of the private tags (release 2024.1); any of them may be absent, and others may appear."""


@dataclass(frozen=True, eq=False)
class TiffFrame:
    """One decoded monitor image.

    Attributes
    ----------
    image : ndarray of uint8, uint16 or uint32, shape (y, x)
        A view of the bytes that were decoded.
    series_id, image_id : int or None
        None in the legacy layout (API 1.6), which carries neither.
    time_ns : int or None
        ImageDateTime as ns since the epoch. Some firmware writes the time of the series into every frame.
    private : dict of str or int to str, float or list
        All values of the private IFD, by the names of `PRIVATE_TAGS`, unknown tags by number.
    """

    image: npt.NDArray[Any]
    series_id: int | None = None
    image_id: int | None = None
    time_ns: int | None = None
    private: dict[str | int, Any] = field(default_factory=dict)


def decode(data: Bytes) -> TiffFrame:
    """Decode one monitor TIFF.

    Parameters
    ----------
    data : bytes-like
        The whole file. The image is a view of it: keep it unchanged while the image is in use.

    Returns
    -------
    TiffFrame

    Raises
    ------
    WireError
        Not a little-endian TIFF with one uncompressed strip of unsigned 8, 16 or 32 bit pixels, or shorter
        than it says. No other exception leaves this function, whatever the bytes.
    """
    view, offset, main = _opened(data)
    image = _image(view, main)
    if PRIVATE_IFD not in main:
        return TiffFrame(image)
    pointer = _integer(main, PRIVATE_IFD, "private IFD pointer")
    if pointer == offset:
        raise WireError("the private IFD pointer (tag 51192) loops back to the main IFD")
    entries, _ = _ifd(view, pointer, "private IFD")
    return _with_private(image, entries)


def decode_array(data: Bytes) -> npt.NDArray[Any]:
    """Decode the TIFF of a pixel mask or a flatfield.

    Returns
    -------
    ndarray of uint8, uint16, uint32 or float32, shape (y, x)
        A view of `data`; WireError as from `decode`.
    """
    view, _, main = _opened(data)
    return _image(view, main, floats=True)


def _opened(data: Bytes) -> tuple[memoryview, int, _Entries]:
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    if view.format != "B" or view.ndim != 1:
        view = view.cast("B")
    if len(view) < 8 or bytes(view[:4]) != MAGIC:
        raise WireError(f"not a little-endian TIFF: starts with {bytes(view[:8])!r}")
    offset = _u32(view, 4, "offset of the main IFD")
    main, following = _ifd(view, offset, "main IFD")
    _check_chain(view, offset, following)
    return view, offset, main


def _with_private(image: npt.NDArray[Any], entries: _Entries) -> TiffFrame:
    private: dict[str | int, Any] = {
        PRIVATE_TAGS.get(tag, tag): _plain(value) for tag, value in entries.items()
    }
    for name in ("series_id", "image_id"):
        if name in private and not isinstance(private[name], int):
            raise WireError(f"private IFD: {name} is {private[name]!r}, expected one integer")
    date_time = private.get("date_time")
    if date_time is not None and not isinstance(date_time, str):
        raise WireError(f"private IFD: date_time is {date_time!r}, expected text")
    return TiffFrame(
        image,
        series_id=private.get("series_id"),
        image_id=private.get("image_id"),
        time_ns=parse_time_ns(date_time) if date_time else None,
        private=private,
    )


def _image(view: memoryview, main: _Entries, *, floats: bool = False) -> npt.NDArray[Any]:
    width = _integer(main, 256, "image width")
    height = _integer(main, 257, "image height")
    bits = _integer(main, 258, "bits per sample")
    compression = _integer(main, 259, "compression", 1)
    offset = _integer(main, 273, "strip offset")
    n_bytes = _integer(main, 279, "strip byte count")
    if bits not in (8, 16, 32):
        raise WireError(f"TIFF with {bits} bits per sample, expected 8, 16 or 32")
    if compression != 1:
        raise WireError(f"TIFF with compression {compression}, expected 1 (none)")
    kinds = {1: "u", 3: "f"} if floats and bits == 32 else {1: "u"}
    kind = kinds.get(_integer(main, 339, "sample format", 1))
    if kind is None or _integer(main, 277, "samples per pixel", 1) != 1:
        raise WireError("TIFF that is not one unsigned sample per pixel")
    if width < 1 or height < 1:
        raise WireError(f"TIFF of {height} rows and {width} columns")
    if n_bytes != width * height * bits // 8:
        raise WireError(
            f"TIFF of {height} rows x {width} columns x {bits} bit with a strip of {n_bytes} bytes, "
            f"expected {width * height * bits // 8}"
        )
    if offset + n_bytes > len(view):
        raise WireError(f"truncated TIFF: {len(view)} bytes, the strip ends at {offset + n_bytes}")
    pixels: npt.NDArray[Any] = np.frombuffer(view, f"<{kind}{bits // 8}", width * height, offset)
    return pixels.reshape(height, width)


def _ifd(view: memoryview, offset: int, what: str) -> tuple[_Entries, int]:
    """Return the entries of one IFD, tag to tuple or bytes, and the offset of the next."""
    if offset + 2 > len(view):
        raise WireError(f"truncated TIFF: {what} at {offset}, file of {len(view)} bytes")
    (count,) = struct.unpack_from("<H", view, offset)
    if not 0 < count <= MAX_ENTRIES:
        raise WireError(f"{what} with {count} entries, expected 1 to {MAX_ENTRIES}")
    end = offset + 2 + 12 * count
    if end + 4 > len(view):
        raise WireError(f"truncated TIFF: {what} ends at {end + 4}, file of {len(view)} bytes")
    entries: _Entries = {}
    for at in range(offset + 2, end, 12):
        tag, kind, n = struct.unpack_from("<HHI", view, at)
        if kind in _FORMATS and 0 < n <= _MAX_VALUES:
            entries[tag] = _value(view, at, tag, kind, n)
    return entries, _u32(view, end, f"next IFD after the {what}")


def _value(view: memoryview, at: int, tag: int, kind: int, n: int) -> _Value:
    layout = f"<{n}{_FORMATS[kind]}"
    size = struct.calcsize(layout)
    start = at + 8 if size <= 4 else _u32(view, at + 8, f"value of tag {tag}")
    if start + size > len(view):
        raise WireError(f"truncated TIFF: value of tag {tag} ends at {start + size} of {len(view)} bytes")
    values = struct.unpack_from(layout, view, start)
    return bytes(values[0]) if kind == 2 else values


def _plain(value: _Value) -> str | float | list[float]:
    if isinstance(value, bytes):
        return value.split(b"\0")[0].decode("ascii", "replace")
    return value[0] if len(value) == 1 else list(value)


def _integer(entries: _Entries, tag: int, what: str, default: int | None = None) -> int:
    value = entries.get(tag, None if default is None else (default,))
    if not isinstance(value, tuple) or len(value) != 1 or not isinstance(value[0], int):
        raise WireError(f"TIFF tag {tag} ({what}) is {value!r:.100}, expected one integer")
    number = value[0]
    if number < 0:
        raise WireError(f"TIFF tag {tag} ({what}) is {number}, expected 0 or more")
    return number


def _u32(view: memoryview, at: int, what: str) -> int:
    if at + 4 > len(view):
        raise WireError(f"truncated TIFF: {what} at {at}, file of {len(view)} bytes")
    return int.from_bytes(view[at : at + 4], "little")


def _check_chain(view: memoryview, first: int, following: int) -> None:
    seen = {first}
    while following:
        if following in seen:
            raise WireError(f"the chain of IFDs loops back to byte {following}")
        if len(seen) >= MAX_IFDS:
            raise WireError(f"a chain of more than {MAX_IFDS} IFDs")
        seen.add(following)
        _, following = _ifd(view, following, "further IFD")

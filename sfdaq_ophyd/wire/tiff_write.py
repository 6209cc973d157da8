"""Write the TIFF of the SIMPLON monitor, in the layouts seen on real detectors.

The pixels are never touched: a writer gives the bytes before and after them, so that a server can send a
72 MB frame without copying it. Source: wire reference eiger, section 6.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError
from .tiff import format_time_ns

PROFILES = ("om", "v2024", "legacy16")
"""``om``: ten private tags, local time in ms (what OM reads); ``v2024``: all thirteen tags of release 2024.1,
UTC in ns; ``legacy16``: API 1.6, no private IFD."""

_SHORT, _LONG, _ASCII, _DOUBLE = 3, 4, 2, 12
_SIZES = {_ASCII: 1, _SHORT: 2, _LONG: 4, _DOUBLE: 8}
_CODES = {_SHORT: "H", _LONG: "I", _DOUBLE: "d"}

_Entry = tuple[int, int, str | tuple[float, ...]]
"""Tag, type and value."""


@dataclass(frozen=True)
class TiffTags:
    """What the private IFD says of one frame.

    Parameters
    ----------
    series_id, image_id : int
    series_unique_id : str
        26-character ULID.
    time_ns : int
        ns since the epoch.
    offset_minutes : int
        Local time east of UTC, for the ``om`` form.
    threshold_energy_ev, incident_energy_ev : float
    exposure_time : float
        s.
    wavelength_angstrom : float
    beam_center : tuple of float
        x, y in pixels.
    detector_distance : float
        m.
    """

    series_id: int
    image_id: int
    series_unique_id: str
    time_ns: int
    offset_minutes: int = 0
    threshold_id: int = 1
    threshold_energy_ev: float = 0.0
    exposure_time: float = 0.0
    incident_energy_ev: float = 0.0
    wavelength_angstrom: float = 0.0
    n_lost_pixels: int = 0
    beam_center: tuple[float, float] = (0.0, 0.0)
    detector_distance: float = 0.0


def frame_around(
    shape: tuple[int, int], bit_depth: int, profile: str, tags: TiffTags | None, *, floats: bool = False
) -> tuple[bytes, bytes]:
    """Return the bytes before and after the pixels of one frame.

    Parameters
    ----------
    shape : (y, x)
    bit_depth : 8, 16 or 32
    profile : str
        One of `PROFILES`.
    tags : TiffTags or None
        Not used by ``legacy16``; None leaves the private IFD out of the other two.
    floats : bool
        The pixels are float32, as those of a flatfield.

    Raises
    ------
    RequestError
    """
    if bit_depth not in (8, 16, 32):
        raise RequestError("bit_depth", bit_depth, "8, 16 or 32")
    if profile not in PROFILES:
        raise RequestError("profile", profile, f"one of {', '.join(PROFILES)}")
    n_bytes = shape[0] * shape[1] * bit_depth // 8
    if profile == "legacy16":
        end = 8 + n_bytes
        ifd_at = end + end % 2
        ifd = _directory(_legacy_entries(shape, bit_depth, n_bytes, floats), ifd_at)
        return struct.pack("<4sI", b"II*\0", ifd_at), b"\0" * (ifd_at - end) + ifd
    private = b"" if tags is None else _directory(_private_entries(tags, profile), 8)
    main_at = 8 + len(private) + len(private) % 2
    entries = _main_entries(shape, bit_depth, n_bytes, floats, has_private=tags is not None)
    strip = -(-(main_at + 6 + 12 * len(entries)) // 16) * 16
    entries[5] = (273, _LONG, (strip,))
    head = struct.pack("<4sI", b"II*\0", main_at) + private
    head = head.ljust(main_at, b"\0") + _directory(entries, main_at)
    return head.ljust(strip, b"\0"), b""


def encode(image: npt.NDArray[Any], tags: TiffTags | None = None, profile: str = "om") -> bytes:
    """Return one whole TIFF file of a 2-D array of uint8, uint16, uint32 or float32, else RequestError."""
    floats = image.dtype == np.float32
    if image.ndim != 2 or not (floats or image.dtype.kind == "u") or image.dtype.itemsize not in (1, 2, 4):
        expected = "uint8, uint16, uint32 or float32, shape (y, x)"
        raise RequestError("image", f"{image.dtype} {image.shape}", expected)
    pixels = np.ascontiguousarray(image, image.dtype.newbyteorder("<"))
    rows, columns = image.shape
    before, after = frame_around((rows, columns), 8 * image.dtype.itemsize, profile, tags, floats=floats)
    return before + pixels.tobytes() + after


def _legacy_entries(shape: tuple[int, int], bit_depth: int, n_bytes: int, floats: bool) -> list[_Entry]:
    height, width = shape
    size = _SHORT if max(shape) < 65536 else _LONG
    return [
        (256, size, (width,)),
        (257, size, (height,)),
        (258, _SHORT, (bit_depth,)),
        (259, _SHORT, (1,)),
        (273, _LONG, (8,)),
        (278, size, (height,)),
        (279, _LONG, (n_bytes,)),
        (339, _SHORT, (3 if floats else 1,)),
    ]


def _main_entries(
    shape: tuple[int, int], bit_depth: int, n_bytes: int, floats: bool, *, has_private: bool
) -> list[_Entry]:
    height, width = shape
    entries: list[_Entry] = [
        (256, _LONG, (width,)),
        (257, _LONG, (height,)),
        (258, _SHORT, (bit_depth,)),
        (259, _SHORT, (1,)),
        (262, _SHORT, (1,)),
        (273, _LONG, (0,)),
        (277, _SHORT, (1,)),
        (278, _LONG, (height,)),
        (279, _LONG, (n_bytes,)),
        (339, _SHORT, (3 if floats else 1,)),
    ]
    return entries + [(51192, _LONG, (8,))] if has_private else entries


def _private_entries(tags: TiffTags, profile: str) -> list[_Entry]:
    offset = tags.offset_minutes if profile == "om" else None
    entries: list[_Entry] = [
        (0x0000, _LONG, (0,)),
        (0x0001, _ASCII, tags.series_unique_id),
        (0x0002, _LONG, (tags.series_id,)),
        (0x0003, _LONG, (tags.image_id,)),
        (0x0004, _ASCII, format_time_ns(tags.time_ns, offset_minutes=offset)),
        (0x0005, _SHORT, (tags.threshold_id,)),
        (0x0006, _DOUBLE, (tags.threshold_energy_ev,)),
        (0x0007, _DOUBLE, (tags.exposure_time,)),
        (0x0009, _DOUBLE, (tags.incident_energy_ev,)),
        (0x000A, _DOUBLE, (tags.wavelength_angstrom,)),
        (0x0012, _LONG, (tags.n_lost_pixels,)),
        (0x0016, _DOUBLE, tuple(tags.beam_center)),
        (0x0017, _DOUBLE, (tags.detector_distance,)),
    ]
    if profile == "om":
        return [entry for entry in entries if entry[0] not in (0x000A, 0x0016, 0x0017)]
    return entries


def _directory(entries: list[_Entry], at: int) -> bytes:
    """Pack an IFD that starts at file offset `at`, its long values after it on even bytes."""
    table, values = bytearray(struct.pack("<H", len(entries))), bytearray()
    values_at = at + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        raw = (
            value.encode() + b"\0"
            if isinstance(value, str)
            else struct.pack(f"<{len(value)}{_CODES[kind]}", *value)
        )
        table += struct.pack("<HHI", tag, kind, len(raw) // _SIZES[kind])
        if len(raw) <= 4:
            table += raw.ljust(4, b"\0")
        else:
            values += b"\0" * ((values_at + len(values)) % 2)
            table += struct.pack("<I", values_at + len(values))
            values += raw
    return bytes(table) + b"\0\0\0\0" + bytes(values)

"""Headers of slsReceiver's image stream, one per module frame (wire reference jungfrau, section 3.3).

Read and written in all the forms that are about: ``jsonversion`` 5 and 4, and the older field names of
package 6.x. Arrays are (y, x) here and (x, y) on the wire.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import WireError
from .json_text import HeaderReader, load_header

CLOCK_PERIOD = 1e-7
"""Seconds per tick of a module's clock (10 MHz)."""

MAX_PORTS = 64
"""Streams of one detector: 32 modules with two interfaces each."""

_OLD_NAMES = {"bunchId": "detSpec1", "reserved": "detSpec2", "debug": "detSpec3", "roundRNumber": "detSpec4"}
_INTEGERS = (  # name on the wire, ours, default, bits
    ("frameNumber", "frame_number", None, 64),
    ("row", "row", None, 16),
    ("column", "column", None, 16),
    ("packetNumber", "n_packets", 128, 32),
    ("timestamp", "ticks", 0, 64),
    ("detSpec1", "det_spec1", 0, 64),
    ("detSpec3", "daq_rec", 0, 32),
    ("expLength", "exposure_ticks", 0, 32),
    ("modId", "module_id", 0, 16),
    ("fileIndex", "file_index", 0, 64),
    ("frameIndex", "frame_index", 0, 64),
    ("bitmode", "bit_mode", 16, 8),
    ("detSpec2", "det_spec2", 0, 64),
    ("detSpec4", "det_spec4", 0, 64),
    ("detType", "det_type", 3, 8),
    ("version", "version", 2, 8),
    ("flipRows", "flip_rows", 0, 8),
    ("quad", "quad", 0, 8),
    ("jsonversion", "json_version", 0, 16),
)
_LARGEST_EXACT = 1 << 53


def decode_pulse_id(word: int) -> int | None:
    """Read the pulse id out of detSpec1, an integer or the bit pattern of a double.

    Returns
    -------
    int or None
        None where the word is 0 or neither form of a pulse id.

    Examples
    --------
    >>> decode_pulse_id(21125820008), decode_pulse_id(4761339213463420928), decode_pulse_id(0)
    (21125820008, 21125820008, None)
    """
    if word < _LARGEST_EXACT:
        return word or None
    (value,) = struct.unpack("<d", word.to_bytes(8, "little"))
    return int(value) or None if value.is_integer() and 0 <= value <= _LARGEST_EXACT else None


def encode_pulse_id(pulse_id: int, as_double: bool = False) -> int:
    """Write a pulse id as detSpec1: as it is, or as the bit pattern of a double."""
    return struct.unpack("<Q", struct.pack("<d", pulse_id))[0] if as_double else pulse_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleHeader:
    """Header of one module frame.

    Attributes
    ----------
    frame_number : int
        The detector's trigger counter; the same for all modules of an image.
    data : bool
        False for the message that ends an acquisition: all else is 0 then.
    row, column : int
        Position of this stream's block, in blocks.
    detector_blocks : (int, int)
        Blocks of the detector in y and x.
    shape : (int, int)
        Pixels of this block in y and x.
    complete : bool
        No packet was lost.
    n_packets : int
        Packets received.
    ticks : int
        Module clock in units of `CLOCK_PERIOD`, since the measurement began; 0 is unknown.
    det_spec1 : int
        Pulse id in one of two encodings; see `pulse_id`.
    daq_rec : int
        How the frame was taken; see `DaqRec`.
    extra : Mapping or None
        The user's additional header, strings only.
    """

    frame_number: int = 0
    data: bool = True
    row: int = 0
    column: int = 0
    detector_blocks: tuple[int, int] = (1, 1)
    shape: tuple[int, int] = (512, 1024)
    complete: bool = True
    n_packets: int = 128
    ticks: int = 0
    det_spec1: int = 0
    daq_rec: int = 0
    exposure_ticks: int = 0
    module_id: int = 0
    file_index: int = 0
    file_name: str = ""
    frame_index: int = 0
    progress: float = 0.0
    bit_mode: int = 16
    det_spec2: int = 0
    det_spec4: int = 0
    det_type: int = 3
    version: int = 2
    flip_rows: int = 0
    quad: int = 0
    extra: Mapping[str, Any] | None = None
    rx_roi: tuple[int, int, int, int] | None = None
    json_version: int = 5

    @property
    def pulse_id(self) -> int | None:
        """The machine's pulse id, or None where the header has none."""
        return decode_pulse_id(self.det_spec1)

    @property
    def n_bytes(self) -> int:
        """Bytes of the pixels."""
        return self.shape[0] * self.shape[1] * self.bit_mode // 8

    @property
    def image_shape(self) -> tuple[int, int]:
        """Pixels of the whole image in y and x."""
        return (self.detector_blocks[0] * self.shape[0], self.detector_blocks[1] * self.shape[1])

    @classmethod
    def end(cls, json_version: int = 5) -> ModuleHeader:
        """Header that ends an acquisition."""
        roi = (0, 0, 0, 0) if json_version >= 5 else None
        return cls(
            data=False,
            complete=False,
            detector_blocks=(0, 0),
            shape=(0, 0),
            n_packets=0,
            bit_mode=0,
            det_type=0,
            version=0,
            rx_roi=roi,
            json_version=json_version,
        )

    @classmethod
    def decode(cls, data: bytes | memoryview) -> ModuleHeader:
        """Read a header.

        Raises
        ------
        WireError
            Not JSON, a field of the wrong type or range, or a frame that is not 16-bit Jungfrau data.
        """
        read = HeaderReader(load_header(data, "module header"), "module header")
        fields = read.fields
        if not read.integer("data", 1, bits=1):
            return cls.end(read.integer("jsonversion", 0, bits=16))
        for old, new in _OLD_NAMES.items():
            if old in fields:
                fields.setdefault(new, fields[old])
        columns, rows = read.integers("shape", 2)
        blocks_x, blocks_y = read.integers("detshape", 2, [1, 1])
        header = cls(
            detector_blocks=(blocks_y, blocks_x),
            shape=(rows, columns),
            data=True,
            complete=bool(read.integer("completeImage", 1, bits=1)),
            file_name=read.text("fname"),
            progress=read.number("progress"),
            extra=_extra(read),
            rx_roi=_roi(read),
            **{
                ours: value
                if type(value := fields.get(name, default)) is int and 0 <= value < 1 << bits
                else read.integer(name, default, bits=bits)
                for name, ours, default, bits in _INTEGERS
            },
        )
        header._check(read.integer("size", header.n_bytes))
        return header

    def _check(self, size: int) -> None:
        (blocks_y, blocks_x), (rows, columns) = self.detector_blocks, self.shape
        if self.bit_mode != 16:
            raise WireError(f"module header: bitmode={self.bit_mode}, expected 16")
        if not (0 < rows <= 512 and 0 < columns <= 1024):
            raise WireError(f"module header: shape={[columns, rows]}, expected at most [1024, 512]")
        if not 0 < blocks_y * blocks_x <= MAX_PORTS:
            raise WireError(
                f"module header: detshape={[blocks_x, blocks_y]}, expected 1 to {MAX_PORTS} blocks"
            )
        if not (self.row < blocks_y and self.column < blocks_x):
            where = f"row={self.row}, column={self.column}"
            raise WireError(f"module header: {where}, expected a block of detshape {[blocks_x, blocks_y]}")
        if size != self.n_bytes:
            raise WireError(f"module header: size={size}, expected {self.n_bytes} for this shape")

    def encode(self, *, old_names: bool = False) -> bytes:
        """Write the header as slsReceiver prints it; `old_names` is the form of package 6.x."""
        spec = ("bunchId", "reserved", "debug", "roundRNumber") if old_names else (
            "detSpec1", "detSpec2", "detSpec3", "detSpec4")  # fmt: skip
        gap, progress = (" ", f"{self.progress:f}") if old_names else ("", _progress(self.progress))
        (rows, columns), (blocks_y, blocks_x) = self.shape, self.detector_blocks
        text = (
            f'{{"jsonversion":{self.json_version}, "bitmode":{self.bit_mode}, "fileIndex":{self.file_index}, '
            f'"detshape":[{blocks_x}, {blocks_y}], "shape":[{columns}, {rows}], "size":{self.n_bytes}, '
            f'"acqIndex":{self.frame_number}, "frameIndex":{self.frame_index}, "progress":{progress}, '
            f'"fname":"{self.file_name}", "data":{gap}{self.data:d}, '
            f'"completeImage":{gap}{self.complete:d}, "frameNumber":{self.frame_number}, '
            f'"expLength":{self.exposure_ticks}, "packetNumber":{self.n_packets}, '
            f'"{spec[0]}":{self.det_spec1}, "timestamp":{self.ticks}, "modId":{self.module_id}, '
            f'"row":{self.row}, "column":{self.column}, "{spec[1]}":{self.det_spec2}, '
            f'"{spec[2]}":{self.daq_rec}, "{spec[3]}":{self.det_spec4}, "detType":{self.det_type}, '
            f'"version":{self.version}, "flipRows":{self.flip_rows}, "quad":{self.quad}'
        )
        if self.extra:
            text += ', "addJsonHeader": {' + ", ".join(f'"{k}":"{v}"' for k, v in self.extra.items()) + " } "
        if self.rx_roi is not None:
            text += f', "rx_roi":{list(self.rx_roi)}'
        return f"{text}}}\n".encode()


def _progress(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else "inf"


def _extra(read: HeaderReader) -> Mapping[str, Any] | None:
    extra = read.fields.pop("addJsonHeader", None)
    if extra is not None and not isinstance(extra, dict):
        raise read.wrong("addJsonHeader", extra, "an object")
    return extra


def _roi(read: HeaderReader) -> tuple[int, int, int, int] | None:
    match read.fields.pop("rx_roi", None):
        case [int(x0), int(x1), int(y0), int(y1)] as roi if bool not in map(type, roi):
            return (x0, x1, y0, y1)
    return None

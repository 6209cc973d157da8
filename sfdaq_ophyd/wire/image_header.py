"""Headers of streams that carry whole images: sf-daq, and the standard DAQ's live stream.

A header is JSON (``htype`` "array-1.0") or, from older standard DAQs, 30 packed bytes (wire reference
jungfrau, section 5). The standard DAQ's protobuf form describes images in its shared memory and never comes
with pixels; it is refused by name.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import WireError
from .json_text import HeaderReader, load_header

PLACEHOLDER_SHAPE = (2, 2)
"""Shape sent in place of an image that was left out to save bandwidth."""

MAX_IMAGE_BYTES = 1 << 28
"""Largest image that is accepted."""

_DTYPES = (
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float32",
    "float64",
    "float16",
)
_PACKED = struct.Struct("<QQQHHH")
_PACKED_CODES = (1, 2, 4, 8, 11, 12, 14, 18, 22, 24, 28)
_PACKED_DTYPES = dict(zip(_PACKED_CODES, ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """Header of one whole image.

    Attributes
    ----------
    frame_number : int
        The detector's frame number, or the standard DAQ's image id.
    shape : (int, int)
        Rows and columns; `PLACEHOLDER_SHAPE` where the image was left out.
    dtype : numpy.dtype
        uint16 for raw Jungfrau images, float32 for converted ones.
    is_good : bool
        All modules complete and of the same pulse.
    pulse_id : int or None
        None where the header has none, or 0.
    daq_rec : int or None
        How the frame was taken; None where unknown, as where no module was complete.
    detector_name, gain_file, pedestal_file : str
        Empty where unknown; the files are names on the DAQ's file system.
    extra : Mapping
        All further fields, untouched.
    """

    frame_number: int
    shape: tuple[int, int]
    dtype: np.dtype[Any] = np.dtype("u2")  # noqa: RUF009
    is_good: bool = True
    pulse_id: int | None = None
    daq_rec: int | None = None
    detector_name: str = ""
    gain_file: str = ""
    pedestal_file: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def placeholder(self) -> bool:
        """Whether the image itself was left out."""
        return self.shape == PLACEHOLDER_SHAPE

    @property
    def n_bytes(self) -> int:
        """Bytes of the pixels."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @classmethod
    def decode(cls, data: bytes | memoryview) -> ImageHeader:
        """Read a header of either form.

        Raises
        ------
        WireError
            Neither form, or a field of the wrong type or range.
        """
        starts = bytes(data[:1]) == b"{"
        if len(data) == _PACKED.size and not (starts and bytes(data).rstrip().endswith(b"}")):
            return cls._decode_packed(data)  # an image id may well begin with a brace
        if starts:
            return cls._decode_json(data)
        raise WireError(
            f"image header: {len(data)} bytes starting {bytes(data[:8])!r}, expected JSON or "
            f"{_PACKED.size} packed bytes (the protobuf form carries no pixels)"
        )

    @classmethod
    def _decode_json(cls, data: bytes | memoryview) -> ImageHeader:
        read = HeaderReader(load_header(data, "image header"), "image header")
        name = read.text("type", "uint16")
        if name not in _DTYPES:
            raise read.wrong("type", name, f"one of {', '.join(_DTYPES)}")
        if (htype := read.text("htype", "array-1.0")) != "array-1.0":
            raise read.wrong("htype", htype, "'array-1.0'")
        rows, columns = read.integers("shape", 2)
        frame_number, pulse_id = read.integer("frame"), read.integer("pulse_id", 0)
        daq_rec = read.integer("daq_rec", 0, bits=32) if "daq_rec" in read.fields else None
        if not (frame_number or pulse_id or daq_rec):  # no module was complete
            daq_rec = None
        header = cls(
            frame_number=frame_number,
            shape=(rows, columns),
            dtype=np.dtype(name).newbyteorder("<"),
            is_good=bool(read.integer("is_good_frame", 1, bits=1)),
            pulse_id=pulse_id or None,
            daq_rec=daq_rec,
            detector_name=read.text("detector_name"),
            gain_file=read.text("gain_file"),
            pedestal_file=read.text("pedestal_file"),
            extra=read.fields,
        )
        return header._checked()

    @classmethod
    def _decode_packed(cls, data: bytes | memoryview) -> ImageHeader:
        number, rows, columns, code, status, source = _PACKED.unpack(data)
        if code not in _PACKED_DTYPES:
            raise WireError(f"image header: dtype={code}, expected one of {sorted(_PACKED_DTYPES)}")
        dtype = np.dtype("<" + _PACKED_DTYPES[code])
        extra = {"status": status, "source_id": source}
        header = cls(
            frame_number=number, shape=(rows, columns), dtype=dtype, is_good=status == 0, extra=extra
        )
        return header._checked()

    def _checked(self) -> ImageHeader:
        if not 0 < self.n_bytes <= MAX_IMAGE_BYTES:
            raise WireError(
                f"image header: shape={list(self.shape)}, expected at most {MAX_IMAGE_BYTES} bytes"
            )
        return self

    def encode(self) -> bytes:
        """Write the header as the sf-daq sender does: compact JSON, fields in its order, extras last."""
        fields = {
            "frame": self.frame_number,
            "is_good_frame": int(self.is_good),
            "daq_rec": self.daq_rec or 0,
            "pulse_id": self.pulse_id or 0,
            "pedestal_file": self.pedestal_file,
            "gain_file": self.gain_file,
            "detector_name": self.detector_name,
            "htype": "array-1.0",
            "type": self.dtype.name,
            "shape": list(self.shape),
            **self.extra,
        }
        return json.dumps(fields, separators=(",", ":")).encode()

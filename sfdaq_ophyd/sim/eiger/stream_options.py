"""How a detector streams, and a recorded series that it may send in place of a simulated one."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path

from ...errors import RequestError, WireError
from ...wire.cbor import decode


@dataclass(frozen=True, eq=False)
class Recording:
    """Messages of one series, one a file.

    Attributes
    ----------
    start, end : bytes or None
        None where it was not recorded.
    images : list of bytes
        By their ids.
    renewed : bool
        Whether they get numbers, names and times of the series that is armed.
    """

    start: bytes | None
    images: list[bytes]
    end: bytes | None
    renewed: bool = True

    @classmethod
    def load(cls, folder: str | Path, *, renewed: bool = True) -> Recording:
        """Read the files ``*.cbor`` and ``*.cbor.xz`` of a folder.

        Raises
        ------
        RequestError
            There is no image, or a file holds no message.
        """
        found: dict[str, list[tuple[int, bytes]]] = {"start": [], "image": [], "end": []}
        try:
            for path in sorted(Path(folder).glob("*.cbor*")):
                data = path.read_bytes()
                data = lzma.decompress(data) if path.suffix == ".xz" else data
                fields = read_fields(data)
                found[str(fields["type"])].append((int(str(fields.get("image_id", 0))), data))
        except (OSError, lzma.LZMAError, WireError, KeyError, ValueError) as exc:
            raise RequestError("stream_replay", str(folder), f"messages of a stream ({exc})") from exc
        if not found["image"]:
            raise RequestError("stream_replay", str(folder), "a folder with images, *.cbor or *.cbor.xz")
        first: dict[str, bytes | None] = {kind: each[0][1] if each else None for kind, each in found.items()}
        images = [data for _, data in sorted(found["image"], key=lambda image: image[0])]
        return cls(first["start"], images, first["end"], renewed)


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamOptions:
    """How a detector streams, in all series.

    Attributes
    ----------
    port, legacy_port : int
        Of versions 2 and 1; 0 takes a free one.
    high_water : int or None
        Messages that are kept for a slow client.
    recording : Recording or None
        What version 2 sends in place of simulated images.
    clock_error : float
        By which share the detector's clock is fast.
    live : float
        Share of the exposure during which it counts.
    """

    port: int
    legacy_port: int
    high_water: int | None
    recording: Recording | None
    clock_error: float
    live: float


def read_fields(data: bytes) -> dict[str, object]:
    """Return the fields of a message; WireError where there are none."""
    fields = decode(data)
    if not isinstance(fields, dict):
        raise WireError(f"a message of {type(fields).__name__}, expected a map")
    return fields

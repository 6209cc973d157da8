"""A recorded series of the stream, version 2, sent in place of a simulated one."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path

from ...errors import RequestError, WireError
from ...wire.cbor import Date, decode
from ...wire.eiger_stream import TICKS
from .stream_series import ExposureClock, Fields, SeriesSettings


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
                fields = _fields(data)
                found[str(fields["type"])].append((int(str(fields.get("image_id", 0))), data))
        except (OSError, lzma.LZMAError, WireError, KeyError, ValueError) as exc:
            raise RequestError("stream_replay", str(folder), f"messages of a stream ({exc})") from exc
        if not found["image"]:
            raise RequestError("stream_replay", str(folder), "a folder with images, *.cbor or *.cbor.xz")
        first: dict[str, bytes | None] = {kind: each[0][1] if each else None for kind, each in found.items()}
        images = [data for _, data in sorted(found["image"], key=lambda image: image[0])]
        return cls(first["start"], images, first["end"], renewed)


class RecordedSeries:
    """The messages of a recording, as `CborSeries` has them of the simulated detector.

    Renewed, they are of the series that is armed, and the images come again and again; else they are what was
    recorded, byte for byte, and after the last image there is none.
    """

    def __init__(self, settings: SeriesSettings, recording: Recording):
        self.settings, self.unique_id, self._recording = settings, settings.unique_id, recording
        self.clock = ExposureClock(settings)

    def start(self) -> Fields | list[bytes | memoryview]:
        """Return the first message; nothing where it was not recorded."""
        if (data := self._recording.start) is None or not self._recording.renewed:
            return [] if data is None else [data]
        renewed = {
            "arm_date": Date(self.settings.arm_date),
            "number_of_images": self.settings.number_of_images,
        }
        return self._renewed(data) | renewed

    def image(
        self, image_id: int, time_ns: int, count_time: float | None
    ) -> Fields | list[bytes | memoryview]:
        """Return one exposure's message; nothing after the last one."""
        images = self._recording.images
        if not self._recording.renewed:
            return [images[image_id]] if image_id < len(images) else []
        begin, end, _ = self.clock.times(time_ns, count_time)
        return self._renewed(images[image_id % len(images)]) | {
            "image_id": image_id,
            "series_date": self.clock.date(),
            "start_time": [begin, TICKS],
            "stop_time": [end, TICKS],
        }

    def end(self) -> Fields | list[bytes | memoryview]:
        """Return the last message; nothing where it was not recorded."""
        if (data := self._recording.end) is None or not self._recording.renewed:
            return [] if data is None else [data]
        return self._renewed(data)

    def _renewed(self, data: bytes) -> Fields:
        numbers = {"series_id": self.settings.maker.series_id, "series_unique_id": self.unique_id}
        return _fields(data) | numbers


def _fields(data: bytes) -> Fields:
    fields = decode(data)
    if not isinstance(fields, dict):
        raise WireError(f"a message of {type(fields).__name__}, expected a map")
    return fields

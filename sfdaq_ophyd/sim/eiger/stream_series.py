"""What one series says on the stream, simulated or recorded: version 2, one CBOR message per exposure.

As in wire reference eiger, section 7. No sockets and no clock in here.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RequestError, WireError
from ...wire.cbor import Date, decode
from ...wire.compression import ArrayBytes
from ...wire.eiger_stream import TICKS, encode_message
from ...wire.tiff import format_time_ns
from .config import DetectorConfig, masked_value
from .frames import FrameMaker, stamp_of
from .packed import PackedScene

_AXES = ("chi", "kappa", "omega", "phi", "two_theta")

_ENERGIES = {"threshold_1": "threshold_energy", "threshold_2": "threshold/2/energy"}

_BEYOND = 2**32 - 1
"""In the table of count-rate corrections: more than can be corrected."""

NS_PER_TICK = 10**9 // TICKS

Parts = tuple[bytes | memoryview, ...]
"""One ZeroMQ message."""

Fields = dict[str, object]
"""One message of version 2, until it is sent."""


def encode(message: Fields | list[bytes | memoryview]) -> Parts:
    """Return what is sent: the parts of version 1 as they are, the fields of version 2 as CBOR."""
    return (encode_message(message),) if isinstance(message, dict) else tuple(message)


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


@dataclass(frozen=True, eq=False, kw_only=True)
class SeriesSettings:
    """What holds for a series from arm on.

    Attributes
    ----------
    maker : FrameMaker
    initialized_ns : int
        When the detector was initialized, ns since the epoch.
    number_of_images : int
    stream : Mapping
        The stream's config, name to value.
    channels : tuple of str
    options : StreamOptions
    """

    maker: FrameMaker
    initialized_ns: int
    number_of_images: int
    stream: Mapping[str, Any]
    channels: tuple[str, ...]
    options: StreamOptions


def channels_of(config: DetectorConfig) -> tuple[str, ...]:
    """Return the names of what every image message brings."""
    difference = config.parameters.get("threshold/difference/mode")
    more = ("difference",) if difference is not None and difference.value == "enabled" else ()
    return (*(f"threshold_{n}" for n, _ in config.thresholds()), *more)


def difference_of(config: DetectorConfig, images: list[np.ndarray]) -> np.ndarray:
    """Return the difference of two thresholds that see the same: nothing, but for the masked pixels."""
    image, masked = np.zeros_like(images[0]), masked_value(config)
    if masked is not None:
        image[config.arrays["pixel_mask"] != 0] = masked
    return image


class ExposureClock:
    """Ticks of the detector's clock since the first exposure of a series.

    Attributes
    ----------
    first_ns : int
        When that began, ns since the epoch; -1 before it.
    offset_ns : int
        By how much the detector's date is wrong.
    """

    def __init__(self, settings: SeriesSettings):
        self._settings, self.first_ns, self.offset_ns = settings, -1, 0

    def date(self) -> Date:
        """Return when the first exposure began, as the detector writes it."""
        return Date(
            format_time_ns(self.first_ns + self.offset_ns, offset_minutes=self._settings.maker.offset_minutes)
        )

    def times(self, time_ns: int, count_time: float | None) -> tuple[int, int, int]:
        """Return when an exposure began and ended, and for how long it counted, in ticks.

        Parameters
        ----------
        time_ns : int
            When it began, ns since the epoch.
        count_time : float or None
            s; None where it is the configured one.
        """
        settings = self._settings
        if settings.maker.series_time_ns is not None:
            time_ns = settings.maker.series_time_ns
        if self.first_ns < 0:
            self.first_ns = time_ns
        seconds = settings.maker.values["count_time"] if count_time is None else count_time
        faster = TICKS * (1 + settings.options.clock_error)
        start = max(0, round((time_ns - self.first_ns) / 1e9 * faster))
        return start, start + round(seconds * faster), round(seconds * settings.options.live * faster)


class CborSeries:
    """The messages of one series in version 2; each is a map of `Fields`."""

    def __init__(self, settings: SeriesSettings, scenes: Mapping[str, PackedScene]):
        self.settings, self._scenes, self.unique_id = settings, scenes, settings.maker.unique_id
        self.clock = ExposureClock(settings)

    def start(self) -> Fields:
        """Return the fields of the first message."""
        s, config, maker = self.settings, self.settings.maker.values, self.settings.maker
        tables = s.stream["header_detail"] == "all"
        thresholds = [channel for channel in s.channels if channel != "difference"]
        return {
            **self._head("start"),
            "arm_date": Date(config["data_collection_date"]),
            "beam_center_x": config["beam_center_x"],
            "beam_center_y": config["beam_center_y"],
            "channels": list(s.channels),
            "count_time": config["count_time"],
            "countrate_correction_enabled": config["countrate_correction_applied"],
            **({"countrate_correction_lookup_table": lookup_table(config)} if tables else {}),
            "detector_description": config["description"],
            "detector_serial_number": config["detector_number"],
            "detector_translation": list(config["detector_translation"]),
            **({"flatfield": self._table("flatfield", thresholds)} if tables else {}),
            "flatfield_enabled": config["flatfield_correction_applied"],
            "frame_time": config["frame_time"],
            "goniometer": {
                axis: {"increment": config[f"{axis}_increment"], "start": config[f"{axis}_start"]}
                for axis in _AXES
            },
            "image_dtype": maker.dtype.name,
            "image_size_x": maker.shape[1],
            "image_size_y": maker.shape[0],
            "incident_energy": config["photon_energy"],
            "incident_wavelength": config["wavelength"],
            "number_of_images": s.number_of_images,
            **({"pixel_mask": self._table("pixel_mask", thresholds)} if tables else {}),
            "pixel_mask_enabled": config["pixel_mask_applied"],
            "pixel_size_x": config["x_pixel_size"],
            "pixel_size_y": config["y_pixel_size"],
            "saturation_value": config["countrate_correction_count_cutoff"],
            "sensor_material": config["sensor_material"],
            "sensor_thickness": config["sensor_thickness"],
            "threshold_energy": {
                name: config[key] for name, key in _ENERGIES.items() if key in config
            },  # enabled or not
            "virtual_pixel_interpolation_enabled": config["virtual_pixel_correction_applied"],
        } | self._user_data("header_appendix")

    def image(self, image_id: int, time_ns: int, count_time: float | None) -> Fields:
        """Return the fields of one exposure's message; parameters as for `ExposureClock.times`."""
        start, stop, real = self.clock.times(time_ns, count_time)
        maker = self.settings.maker
        stamp, sample = stamp_of(maker.series_id, image_id), maker.sample_of(image_id)
        arrays: dict[int, ArrayBytes] = {}  # thresholds see the same
        data = {}
        for channel in self.settings.channels:
            scene = self._scenes[channel]
            if id(scene) not in arrays:
                arrays[id(scene)] = scene.frame(image_id, stamp, sample, lambda: maker.band(image_id))
            data[channel] = arrays[id(scene)]
        return {
            **self._head("image"),
            "image_id": image_id,
            "real_time": [real, TICKS],
            "series_date": self.clock.date(),
            "start_time": [start, TICKS],
            "stop_time": [stop, TICKS],
            "data": data,
        } | self._user_data("image_appendix")

    def end(self) -> Fields:
        """Return the fields of the last message."""
        return self._head("end")

    def _head(self, kind: str) -> Fields:
        return {
            "type": kind,
            "series_id": self.settings.maker.series_id,
            "series_unique_id": self.unique_id,
        }

    def _table(self, name: str, channels: list[str]) -> dict[str, np.ndarray]:
        return dict.fromkeys(channels, np.asarray(self.settings.maker.arrays[name]))

    def _user_data(self, name: str) -> Fields:
        value = self.settings.stream[name]
        return {} if value == "" else {"user_data": value}


class RecordedSeries:
    """The messages of a recording, as `CborSeries` has them of the simulated detector.

    Renewed, they are of the series that is armed, and the images come again and again; else they are what was
    recorded, byte for byte, and after the last image there is none.
    """

    def __init__(self, settings: SeriesSettings, recording: Recording):
        self.settings, self.unique_id, self._recording = settings, settings.maker.unique_id, recording
        self.clock = ExposureClock(settings)

    def start(self) -> Fields | list[bytes | memoryview]:
        """Return the first message; nothing where it was not recorded."""
        if (data := self._recording.start) is None or not self._recording.renewed:
            return [] if data is None else [data]
        renewed = {
            "arm_date": Date(self.settings.maker.values["data_collection_date"]),
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
        return read_fields(data) | numbers


def lookup_table(config: Mapping[str, Any]) -> np.ndarray:
    """Return the corrected counts of one sub-frame by what was counted, uint32."""
    counted = np.arange(65536)
    sub_frame = min(1.0, config["frame_count_time"] / config["count_time"])
    most = max(1, round(config["countrate_correction_count_cutoff"] * sub_frame))
    corrected = np.rint(counted * (1 + counted / (4 * most)))
    return np.where(corrected <= most, corrected, _BEYOND).astype("<u4")

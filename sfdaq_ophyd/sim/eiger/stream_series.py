"""What one series says on the stream, simulated or recorded, in version 2 (CBOR) or 1 (JSON and blobs).

As in wire reference eiger, section 7. No sockets and no clock in here.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RequestError, WireError
from ...wire.cbor import Date, decode
from ...wire.compression import ArrayBytes
from ...wire.eiger_stream import TICKS
from ...wire.tiff import format_time_ns
from .frames import FrameMaker, PackedScene

_AXES = ("chi", "kappa", "omega", "phi", "two_theta")

_ENERGIES = {"threshold_1": "threshold_energy", "threshold_2": "threshold/2/energy"}

_BEYOND = 2**32 - 1
"""In the table of count-rate corrections: more than can be corrected."""

_DEAD_TIME = 2.7e-7

NS_PER_TICK = 10**9 // TICKS

Fields = dict[str, object]
"""One message of version 2, until it is sent."""

Parts = list[bytes | memoryview]
"""One message of ZeroMQ; none where there is nothing to say."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Messages of one series, one a file; start and end are None where they were not recorded."""

    start: bytes | None
    images: list[bytes]  # by their ids
    end: bytes | None
    renewed: bool  # whether they get numbers, names and times of the series that is armed

    @classmethod
    def load(cls, folder: str | Path, *, renewed: bool) -> Recording:
        """Read the files ``*.cbor`` and ``*.cbor.xz`` of a folder.

        Raises
        ------
        RequestError
            There is no image, or a file holds no message.
        """
        found: dict[str, dict[int, bytes]] = {"start": {}, "image": {}, "end": {}}
        try:
            for path in sorted(Path(folder).glob("*.cbor*")):
                data = path.read_bytes()
                data = lzma.decompress(data) if path.suffix == ".xz" else data
                fields = read_fields(data)
                found[str(fields["type"])].setdefault(int(str(fields.get("image_id", 0))), data)
        except (OSError, lzma.LZMAError, WireError, KeyError, ValueError) as exc:
            raise RequestError("stream_replay", str(folder), f"messages of a stream ({exc})") from exc
        if not found["image"]:
            raise RequestError("stream_replay", str(folder), "a folder with images, *.cbor or *.cbor.xz")
        images = [data for _, data in sorted(found["image"].items())]
        return cls(found["start"].get(0), images, found["end"].get(0), renewed)


def read_fields(data: bytes) -> Fields:
    """Return the fields of a message; WireError where there are none."""
    fields = decode(data)
    if not isinstance(fields, dict):
        raise WireError(f"a message of {type(fields).__name__}, expected a map")
    return fields


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamOptions:
    """How a detector streams, in all series."""

    port: int  # of version 2; 0 takes a free one
    legacy_port: int  # of version 1
    high_water: int | None  # messages that are kept for a slow client
    recording: Recording | None  # what version 2 sends in place of simulated images
    clock_error: float  # by which share the detector's clock is fast
    live: float  # share of the exposure during which it counts


@dataclass(eq=False, kw_only=True)
class StreamSeries:
    """What holds for a series from arm on, and the ticks of the detector's clock since its first exposure."""

    maker: FrameMaker
    options: StreamOptions
    initialized_ns: int  # when the detector was initialized, since the epoch
    number_of_images: int
    stream: Mapping[str, Any]  # the stream's config, name to value
    scenes: Mapping[str, PackedScene]  # compressed images of every channel
    first_ns: int = -1  # when the first exposure began, since the epoch; -1 before it
    offset_ns: int = 0  # by how much the detector's date is wrong

    def __post_init__(self):
        self.unique_id = self.maker.unique_id

    def date(self) -> Date:
        """Return when the first exposure began, as the detector writes it."""
        time_ns = self.first_ns + self.offset_ns
        return Date(format_time_ns(time_ns, offset_minutes=self.maker.offset_minutes))

    def times(self, time_ns: int, count_time: float | None) -> tuple[int, int, int]:
        """Return when an exposure began and ended, and for how long it counted, in ticks.

        Parameters
        ----------
        time_ns : int
            When it began, ns since the epoch.
        count_time : float or None
            s; None where it is the configured one.
        """
        if self.maker.series_time_ns is not None:
            time_ns = self.maker.series_time_ns
        if self.first_ns < 0:
            self.first_ns = time_ns
        seconds = self.maker.values["count_time"] if count_time is None else count_time
        faster = TICKS * (1 + self.options.clock_error)
        start = max(0, round((time_ns - self.first_ns) / 1e9 * faster))
        return start, start + round(seconds * faster), round(seconds * self.options.live * faster)

    def head(self, kind: str) -> Fields:
        """Return the fields with which a message of version 2 begins."""
        return {"type": kind, "series_id": self.maker.series_id, "series_unique_id": self.unique_id}


class CborSeries(StreamSeries):
    """The messages of one series in version 2; each is a map of `Fields`."""

    def start(self) -> Fields:
        """Return the fields of the first message."""
        config, maker = self.maker.values, self.maker
        tables: Fields = {}
        if self.stream["header_detail"] == "all":
            thresholds = [channel for channel in self.scenes if channel != "difference"]
            tables = {name: dict.fromkeys(thresholds, config[name]) for name in ("flatfield", "pixel_mask")}
            tables["countrate_correction_lookup_table"] = lookup_table(config)
        fields: Fields = {
            "arm_date": Date(config["data_collection_date"]),
            "beam_center_x": config["beam_center_x"],
            "beam_center_y": config["beam_center_y"],
            "channels": list(self.scenes),
            "count_time": config["count_time"],
            "countrate_correction_enabled": config["countrate_correction_applied"],
            "detector_description": config["description"],
            "detector_serial_number": config["detector_number"],
            "detector_translation": list(config["detector_translation"]),
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
            "number_of_images": self.number_of_images,
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
        }
        fields = dict(sorted((fields | tables).items()))
        return self.head("start") | fields | self._user_data("header_appendix")

    def image(self, image_id: int, time_ns: int, count_time: float | None) -> Fields:
        """Return the fields of one exposure's message; parameters as for `times`."""
        start, stop, real = self.times(time_ns, count_time)
        # thresholds see the same
        arrays = {scene: scene.frame(self.maker, image_id) for scene in dict.fromkeys(self.scenes.values())}
        return {
            **self.head("image"),
            "image_id": image_id,
            "real_time": [real, TICKS],
            "series_date": self.date(),
            "start_time": [start, TICKS],
            "stop_time": [stop, TICKS],
            "data": {channel: arrays[scene] for channel, scene in self.scenes.items()},
        } | self._user_data("image_appendix")

    def end(self) -> Fields:
        """Return the fields of the last message."""
        return self.head("end")

    def _user_data(self, name: str) -> Fields:
        value = self.stream[name]
        return {} if value == "" else {"user_data": value}


def lookup_table(config: Mapping[str, Any]) -> np.ndarray:
    """Return the corrected counts of one sub-frame by what was counted, uint32."""
    counted = np.arange(65536)
    sub_frame = min(1.0, config["frame_count_time"] / config["count_time"])
    most = max(1, round(config["countrate_correction_count_cutoff"] * sub_frame))
    corrected = np.rint(counted * (1 + counted / (4 * most)))
    return np.where(corrected <= most, corrected, _BEYOND).astype("<u4")


LEGACY_CONFIG = (
    "auto_summation beam_center_x beam_center_y bit_depth_image bit_depth_readout chi_increment chi_start"
    " compression count_time countrate_correction_applied countrate_correction_count_cutoff"
    " data_collection_date description detector_distance detector_number detector_readout_time"
    " detector_translation eiger_fw_version element flatfield_correction_applied frame_count_time frame_time"
    " kappa_increment kappa_start nimages ntrigger number_of_excluded_pixels omega_increment omega_start"
    " phi_increment phi_start photon_energy pixel_mask_applied roi_mode sensor_material sensor_thickness"
    " software_version threshold_energy trigger_mode two_theta_increment two_theta_start"
    " virtual_pixel_correction_applied wavelength x_pixel_size x_pixels_in_detector y_pixel_size"
    " y_pixels_in_detector"
).split()
"""Parameters in the second part of the header of version 1."""


class LegacySeries(StreamSeries):
    """The messages of one series in version 1, of one threshold; each is a list of parts."""

    def start(self) -> Parts:
        """Return the header: 1 part, 2 or, with everything, 8 and the appendix."""
        values, detail = self.maker.values, self.stream["header_detail"]
        parts: Parts = [_json(header_detail=detail, htype="dheader-1.0", series=self.maker.series_id)]
        if detail != "none":
            config = {name: values[name] for name in LEGACY_CONFIG}
            config["frame_period"] = config["frame_count_time"] + config["detector_readout_time"]
            parts.append(_json(**config))
        if detail == "all":
            true = np.arange(4000) * 1125.0
            rates = np.stack([true, true * np.exp(-true * _DEAD_TIME)], axis=1).astype("<f4")
            tables = {"flatfield": values["flatfield"], "pixelmask": values["pixel_mask"]}
            tables["countrate_table"] = rates
            for name, table in tables.items():
                shape = list(table.shape[::-1])
                parts.append(_json(htype=f"d{name}-1.0", shape=shape, type=table.dtype.name))
                parts.append(np.ascontiguousarray(table).data.cast("B"))
            parts += self._appendix("header_appendix")
        return parts

    def image(self, image_id: int, time_ns: int, count_time: float | None) -> Parts:
        """Return one exposure's 4 parts, 5 with an appendix; parameters as for `times`."""
        start, stop, real = self.times(time_ns, count_time)
        began, series = (self.first_ns - self.initialized_ns) // NS_PER_TICK, self.maker.series_id
        array: ArrayBytes = next(iter(self.scenes.values())).frame(self.maker, image_id)
        lz4 = "" if array.algorithm == "none" else "lz4"
        shuffled = f"bs{8 * array.element_size}-" if array.element_size else ""
        about = _json(
            encoding=f"{shuffled}{lz4}<",
            htype="dimage_d-1.0",
            shape=list(array.shape[::-1]),
            size=len(array.data),
            type=array.dtype.name,
        )
        digest = hashlib.md5(about, usedforsecurity=False).hexdigest()
        times = _json(
            htype="dconfig-1.0",
            real_time=real * NS_PER_TICK,
            start_time=(began + start) * NS_PER_TICK,
            stop_time=(began + stop) * NS_PER_TICK,
        )
        head = _json(frame=image_id, hash=digest, htype="dimage-1.0", series=series)
        return [head, about, array.data, times, *self._appendix("image_appendix")]

    def end(self) -> Parts:
        """Return the last message, one part."""
        return [_json(htype="dseries_end-1.0", series=self.maker.series_id)]

    def _appendix(self, name: str) -> Parts:
        """Return the part of an appendix as it was put; none if it is empty."""
        value = self.stream[name]
        if value == "":
            return []
        return [(value if isinstance(value, str) else json.dumps(value)).encode()]


def _json(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


class RecordedSeries(StreamSeries):
    """The messages of a recording, as `CborSeries` has them of the simulated detector.

    Renewed, they are of the series that is armed, and the images come again and again; else they are what was
    recorded, byte for byte, and after the last image there is none.
    """

    def __post_init__(self):
        super().__post_init__()
        assert self.options.recording is not None
        self._recording = self.options.recording

    def start(self) -> Fields | Parts:
        """Return the first message; nothing where it was not recorded."""
        date = Date(self.maker.values["data_collection_date"])
        return self._message(self._recording.start, arm_date=date, number_of_images=self.number_of_images)

    def image(self, image_id: int, time_ns: int, count_time: float | None) -> Fields | Parts:
        """Return one exposure's message; nothing after the last one."""
        images = self._recording.images
        if not self._recording.renewed:
            return [*images[image_id : image_id + 1]]
        begin, end, _ = self.times(time_ns, count_time)
        return self._message(
            images[image_id % len(images)],
            image_id=image_id,
            series_date=self.date(),
            start_time=[begin, TICKS],
            stop_time=[end, TICKS],
        )

    def end(self) -> Fields | Parts:
        """Return the last message; nothing where it was not recorded."""
        return self._message(self._recording.end)

    def _message(self, data: bytes | None, **renewed: object) -> Fields | Parts:
        if data is None or not self._recording.renewed:
            return [] if data is None else [data]
        fields = read_fields(data)
        return fields | self.head(str(fields["type"])) | renewed

"""Files of the filewriter. They are made when somebody fetches them: until then a series is a few numbers.

As in wire reference eiger, section 8. No HTTP in here.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import h5py
import hdf5plugin

from ...wire.simplon import Parameter
from ...wire.tiff import format_time_ns
from .config import Subsystem
from .frames import FrameMaker
from .parameters import SWITCH, count, flag, measured, text

MOST_SERIES = 4
"""Series whose files are kept; older ones are gone, as from a full buffer."""

MOST_BYTES = 2**28
"""Bytes of pixels in one file at the most, whatever `nimages_per_file` says."""

BUFFER = 2**36
"""Bytes of pixels for which there is room."""

DETECTOR = (
    *("description", "detector_number", "sensor_material", "sensor_thickness", "bit_depth_image"),
    *("bit_depth_readout", "x_pixel_size", "y_pixel_size", "beam_center_x", "beam_center_y"),
    *("detector_distance", "count_time", "frame_time", "detector_readout_time", "threshold_energy"),
    *("flatfield_correction_applied", "pixel_mask_applied", "virtual_pixel_correction_applied"),
)
"""Config parameters in ``/entry/instrument/detector``."""

SPECIFIC = (
    *("nimages", "ntrigger", "trigger_mode", "photon_energy", "software_version", "eiger_fw_version"),
    *("x_pixels_in_detector", "y_pixels_in_detector", "number_of_excluded_pixels", "auto_summation"),
    *("countrate_correction_count_cutoff", "frame_count_time", "roi_mode", "data_collection_date"),
)
"""Those in ``detectorSpecific`` below it."""

ARRAYS = ("pixel_mask", "flatfield")
"""2-D arrays, which are there, too."""


@dataclass(eq=False)
class SeriesFiles:
    """What the files of one series hold."""

    name: str  # the pattern with the series' number in it
    maker: FrameMaker
    begun_ns: int  # when it was armed, ns since the epoch
    n_expected: int  # images it was armed for: the master, there from then on, points to all of them
    per_file: int  # images per data file; 0 has all in the master
    first_number: int
    compressed: bool
    legacy: bool
    images: list[tuple[int, int]] = field(default_factory=list)  # number and time in ns of those so far
    n_held: int = 0  # images that are in no deleted file

    def data_name(self, first: int) -> str:
        """Return the name of the data file that begins with an image."""
        return f"{self.name}_data_{first // self.per_file + 1:06d}.h5"

    def render(self, part: range | None) -> memoryview:
        """Return the bytes of the data file with some of the images, or of the master (None)."""
        memory = io.BytesIO()
        with h5py.File(memory, "w") as file:
            if part is None:
                self._write_master(file)
            else:
                self._write_images(file, part.start, part.stop)
        return memory.getbuffer()

    def _write_images(self, file: h5py.File, first: int, last: int) -> None:
        shape, dtype = self.maker.shape, self.maker.dtype
        inner = shape if self.legacy else (len(self.maker.thresholds), *shape)
        options = {"chunks": (1,) * (len(inner) - 1) + shape}
        if self.compressed:
            options |= hdf5plugin.Bitshuffle(cname="lz4")
        images = file.create_dataset("entry/data/data", (last - first, *inner), dtype, **options)
        taken = self.images[first:last]
        if taken:
            images.attrs["image_nr_low"] = self.first_number + taken[0][0]
            images.attrs["image_nr_high"] = self.first_number + taken[-1][0]
        for k, (image_id, _) in enumerate(taken):
            images[k] = self.maker.image(image_id)
        if not self.legacy:
            file["entry/data/image_id"] = [self.first_number + image_id for image_id, _ in taken]
            file["entry/data/start_time"] = [(time_ns - self.begun_ns) / 1e9 for _, time_ns in taken]
            file["entry/data/start_time"].attrs["units"] = "s"

    def _write_master(self, file: h5py.File) -> None:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        detector = entry.create_group("instrument/detector")
        specific = detector.create_group("detectorSpecific")
        for group, names in ((detector, DETECTOR), (specific, SPECIFIC)):
            for name in names:
                group[name] = self.maker.values[name]
        for name in ARRAYS:
            specific.create_dataset(name, data=self.maker.values[name], **hdf5plugin.Bitshuffle(cname="lz4"))
        entry["instrument/beam/incident_wavelength"] = self.maker.values["wavelength"]
        if not self.legacy:
            entry["start_time"] = format_time_ns(self.begun_ns)
            for n, energy in self.maker.thresholds:
                of_channel = detector.create_group(f"threshold_{n}_channel")
                of_channel["threshold_energy"] = energy
                for name in ARRAYS:
                    of_channel[name] = specific[name]
        data = entry.require_group("data")
        if not self.per_file:
            most = max(1, MOST_BYTES // self.maker.n_bytes)
            self._write_images(file, 0, min(len(self.images), most))
        elif self.legacy:
            for i, first in enumerate(range(0, self.n_expected, self.per_file)):
                data[f"data_{i + 1:06d}"] = h5py.ExternalLink(self.data_name(first), "/entry/data/data")
        else:
            self._write_virtual(data)
            data["channel"] = [f"threshold_{n}" for n, _ in self.maker.thresholds]

    def _write_virtual(self, data: h5py.Group) -> None:
        """Write the datasets that show those of all data files in one."""
        inner = (len(self.maker.thresholds), *self.maker.shape)
        kinds = {"data": (inner, self.maker.dtype), "image_id": ((), "i8"), "start_time": ((), "f8")}
        for dataset, (inner, dtype) in kinds.items():
            layout = h5py.VirtualLayout((self.n_expected, *inner), dtype)
            for first in range(0, self.n_expected, self.per_file):
                last = min(first + self.per_file, self.n_expected)
                source = h5py.VirtualSource(
                    self.data_name(first), f"/entry/data/{dataset}", (last - first, *inner)
                )
                layout[first:last] = source
            data.create_virtual_dataset(dataset, layout)


class FileWriter(Subsystem):
    """``filewriter``: files of the last series."""

    def __init__(self, version: str):
        self._series: deque[SeriesFiles] = deque(maxlen=MOST_SERIES)
        self._files: dict[str, tuple[SeriesFiles, range | None]] = {}
        self._writing: SeriesFiles | None = None
        self._rendered: tuple[object, memoryview] | None = None
        self._rendering = threading.Lock()
        self.commands = {"clear": self.clear, "initialize": self.reset}
        super().__init__(version)

    def _defaults(self) -> dict[str, Parameter]:
        formats = ("hdf5 nexus legacy nxmx", "hdf5 nexus v2024.2 nxmx")
        return {
            "mode": text("disabled", *SWITCH),
            "name_pattern": text("series_$id"),
            "nimages_per_file": count(1000),
            "image_nr_start": count(1),
            "compression_enabled": flag(True),
            "format": text(formats[0], *formats),
        }

    def _status(self) -> dict[str, Parameter]:
        used = sum(each.n_held * len(each.maker.thresholds) * each.maker.n_bytes for each in self._series)
        unit = 1024 if self.version == "1.6.0" else 1
        return {
            "state": self._output_state(),
            "files": measured(self.names(), "string[]"),
            "buffer_free": measured(max(0, BUFFER - used) // unit, "uint"),
            "error": measured([], "string[]"),
        }

    def open(self, maker: FrameMaker, begun_ns: int, n_images: int) -> None:
        """Begin a series of `n_images`, if the filewriter is enabled: its master file is there at once."""
        self.close()
        self.acquiring = self.enabled
        if not self.enabled:
            return
        most = max(1, MOST_BYTES // maker.n_bytes)
        series = SeriesFiles(
            name=self["name_pattern"].replace("$id", str(maker.series_id)),
            maker=maker,
            begun_ns=begun_ns,
            n_expected=n_images,
            per_file=min(self["nimages_per_file"], most),
            first_number=self["image_nr_start"],
            compressed=self["compression_enabled"],
            legacy="legacy" in self["format"],
        )
        for same in [other for other in self._series if other.name == series.name]:
            self._series.remove(same)
        self._series.append(series)
        self._files = {name: file for name, file in self._files.items() if file[0] in self._series}
        self._files[f"{series.name}_master.h5"] = (series, None)
        self._writing = series

    def take(self, image_id: int, time_ns: int) -> None:
        """Take the next image of the series: a data file that is full is there."""
        if (series := self._writing) is not None:
            series.images.append((image_id, time_ns))
            series.n_held += 1
            if series.per_file and len(series.images) % series.per_file == 0:
                self._finish_file(series)

    def close(self) -> None:
        """End the series: its last file is there."""
        self.acquiring = False
        if (series := self._writing) is not None:
            if series.per_file and len(series.images) % series.per_file:
                self._finish_file(series)
            self._writing = None

    def clear(self) -> None:
        """Delete every file."""
        self._series.clear()
        self._files.clear()
        self._writing = self._rendered = None

    def names(self) -> list[str]:
        """Return the names of all files, oldest series first."""
        return list(self._files)

    def reader(self, name: str) -> Callable[[], memoryview]:
        """Return a function, for any thread, that makes the bytes of a file; KeyError if it is not there."""
        series, part = self._files[name]
        state = (series, name, 0 if series.per_file else len(series.images))

        def read() -> memoryview:
            with self._rendering:  # one at a time
                if self._rendered is None or self._rendered[0] != state:
                    self._rendered = None
                    self._rendered = (state, series.render(part))
                return self._rendered[1]

        return read

    def remove(self, name: str) -> None:
        """Delete a file; KeyError if it is not there."""
        series, part = self._files.pop(name)
        series.n_held -= len(part or ())

    def _finish_file(self, series: SeriesFiles) -> None:
        n_images = len(series.images)
        first = (n_images - 1) // series.per_file * series.per_file
        self._files[series.data_name(first)] = (series, range(first, n_images))

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
from .frames import FrameMaker

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


@dataclass(eq=False)
class SeriesFiles:
    """Files of one series.

    Attributes
    ----------
    name : str
        The pattern with the series' number in it.
    begun_ns : int
        When it was armed, ns since the epoch.
    n_expected : int
        Images it was armed for: the master, which is there from then on, points to all of them.
    per_file : int
        Images per data file; 0 has all in the master.
    images : list of (int, int)
        Number and time in ns of the images so far.
    closed : bool
        Whether the series has ended: then the last data file is there, too.
    """

    name: str
    maker: FrameMaker
    begun_ns: int
    n_expected: int
    per_file: int
    first_number: int
    compressed: bool
    legacy: bool
    images: list[tuple[int, int]] = field(default_factory=list)
    closed: bool = False
    deleted: set[str] = field(default_factory=set)

    @property
    def n_bytes(self) -> int:
        """Bytes of pixels that it holds."""
        gone = self._names_of(self.n_images)
        n_gone = sum(name in self.deleted for name in gone) * self.per_file
        return max(0, self.n_images - n_gone) * len(self.maker.channels) * self.maker.n_bytes

    @property
    def n_images(self) -> int:
        """Images so far."""
        return len(self.images)

    @property
    def master(self) -> str:
        """Name of the master file."""
        return f"{self.name}_master.h5"

    def names(self) -> list[str]:
        """Return the files that are there."""
        return [name for name in [self.master, *self._data_names()] if name not in self.deleted]

    def render(self, name: str) -> memoryview:
        """Return the bytes of a file."""
        memory = io.BytesIO()
        with h5py.File(memory, "w") as file:
            if name == self.master:
                self._write_master(file)
            else:
                first = self._data_names().index(name) * self.per_file
                self._write_images(file, first, min(first + self.per_file, self.n_images))
        return memory.getbuffer()

    def state_of(self, name: str) -> tuple:
        """Return what the bytes of a file depend on."""
        return (name, self.n_images) if not self.per_file else (name,)

    def _data_names(self) -> list[str]:
        n_images = self.n_images
        if self.per_file and not self.closed:
            n_images -= n_images % self.per_file
        return self._names_of(n_images)

    def _names_of(self, n_images: int) -> list[str]:
        """Return the data files that hold so many images."""
        n_files = -(-n_images // self.per_file) if self.per_file else 0
        return [f"{self.name}_data_{i + 1:06d}.h5" for i in range(n_files)]

    def _write_images(self, file: h5py.File, first: int, last: int) -> None:
        shape, dtype = self.maker.shape, self.maker.dtype
        inner = shape if self.legacy else (len(self.maker.channels), *shape)
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
        for name, array in self.maker.arrays.items():
            specific.create_dataset(name, data=array, **hdf5plugin.Bitshuffle(cname="lz4"))
        entry["instrument/beam/incident_wavelength"] = self.maker.values["wavelength"]
        if not self.legacy:
            entry["start_time"] = format_time_ns(self.begun_ns)
            for channel, energy in self.maker.channels:
                of_channel = detector.create_group(f"{channel}_channel")
                of_channel["threshold_energy"] = energy
                for name in self.maker.arrays:
                    of_channel[name] = specific[name]
        data = entry.require_group("data")
        if not self.per_file:
            most = max(1, MOST_BYTES // self.maker.n_bytes)
            self._write_images(file, 0, min(self.n_images, most))
        elif self.legacy:
            for i, name in enumerate(self._names_of(self.n_expected)):
                data[f"data_{i + 1:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
        else:
            self._write_virtual(data)
            data["channel"] = [channel for channel, _ in self.maker.channels]

    def _write_virtual(self, data: h5py.Group) -> None:
        """Write the datasets that show those of all data files in one."""
        inner = (len(self.maker.channels), *self.maker.shape)
        kinds = {"data": (inner, self.maker.dtype), "image_id": ((), "i8"), "start_time": ((), "f8")}
        for dataset, (inner, dtype) in kinds.items():
            layout = h5py.VirtualLayout((self.n_expected, *inner), dtype)
            firsts = range(0, self.n_expected, self.per_file)
            for first, name in zip(firsts, self._names_of(self.n_expected)):
                last = min(first + self.per_file, self.n_expected)
                shape = (last - first, *inner)
                layout[first:last] = h5py.VirtualSource(name, f"/entry/data/{dataset}", shape)
            data.create_virtual_dataset(dataset, layout)


class FileWriter:
    """Files of the last series.

    Parameters
    ----------
    config : callable
        Returns the filewriter's config: name to `Parameter`.
    """

    def __init__(self, config: Callable[[], dict[str, Parameter]]):
        self._config = config
        self._series: deque[SeriesFiles] = deque(maxlen=MOST_SERIES)
        self._writing: SeriesFiles | None = None
        self._rendered: tuple[object, memoryview] | None = None
        self._rendering = threading.Lock()

    @property
    def n_bytes_free(self) -> int:
        """Bytes for which there is room."""
        return max(0, BUFFER - sum(series.n_bytes for series in self._series))

    def open(self, maker: FrameMaker, begun_ns: int, n_images: int) -> None:
        """Begin a series of `n_images`, if the filewriter is enabled: its master file is there at once."""
        self.close()
        config = {name: parameter.value for name, parameter in self._config().items()}
        if config["mode"] != "enabled":
            return
        most = max(1, MOST_BYTES // maker.n_bytes)
        series = SeriesFiles(
            name=config["name_pattern"].replace("$id", str(maker.series_id)),
            maker=maker,
            begun_ns=begun_ns,
            n_expected=n_images,
            per_file=min(config["nimages_per_file"], most),
            first_number=config["image_nr_start"],
            compressed=config["compression_enabled"],
            legacy="legacy" in config["format"],
        )
        for same in [other for other in self._series if other.name == series.name]:
            self._series.remove(same)
        self._series.append(series)
        self._writing = series

    def take(self, image_id: int, time_ns: int) -> None:
        """Take the next image of the series."""
        if self._writing is not None:
            self._writing.images.append((image_id, time_ns))

    def close(self) -> None:
        """End the series: its last file is there."""
        if self._writing is not None:
            self._writing.closed = True
            self._writing = None

    def clear(self) -> None:
        """Delete every file."""
        self._series.clear()
        self._writing = self._rendered = None

    def names(self) -> list[str]:
        """Return the names of all files, oldest series first."""
        return [name for series in self._series for name in series.names()]

    def reader(self, name: str) -> Callable[[], memoryview]:
        """Return a function, for any thread, that makes the bytes of a file; KeyError if it is not there."""
        series = self._find(name)
        state = (series.state_of(name), series)

        def read() -> memoryview:
            with self._rendering:  # one at a time
                if self._rendered is None or self._rendered[0] != state:
                    self._rendered = None
                    self._rendered = (state, series.render(name))
                return self._rendered[1]

        return read

    def delete(self, name: str) -> None:
        """Delete a file; KeyError if it is not there."""
        self._find(name).deleted.add(name)

    def _find(self, name: str) -> SeriesFiles:
        for series in self._series:
            if name in series.names():
                return series
        raise KeyError(name)

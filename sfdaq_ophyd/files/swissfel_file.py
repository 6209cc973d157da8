"""Jungfrau frames in SwissFEL files, raw or processed (wire reference jungfrau, sections 8.4 and 8.5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import FileFormatError
from ..wire.detector_name import MODULE_SHAPE, DetectorName
from ..wire.frame import Frame
from ._hdf5 import Shape, dataset, h5py, looking_into, open_file, read

MAX_ROWS = 10_000_000
"""Of a file; more than a day at 100 Hz."""

MAX_MODULES = 1000

MAX_VALUES = 50_000_000
"""Of what is read with one value per frame and module: 32 modules for more than four hours."""

_IMAGES = (
    f"(frames, y, x), at most {MAX_ROWS} frames",
    lambda shape: len(shape) == 3 and shape[0] <= MAX_ROWS,
)

_COLUMNS = ("pulse_id", "is_good_frame", "daq_rec", "frame_index", "unit", "conversion_factor", "module_map")
"""Read when the file is opened, so that an odd one is refused then."""


class SwissfelFile:
    """One detector's frames in one file; a context manager.

    Parameters
    ----------
    path : str or Path
        The file.
    detector : str, optional
        Group below ``/data``, e.g. ``"JF01T03V01"`` or ``"JF01T03V01:ROI_spot"``; needed where there are
        several.

    Raises
    ------
    FileFormatError
        No HDF5, a missing dataset, the wrong shape or dtype: with file, dataset, found and expected.

    Examples
    --------
    >>> with SwissfelFile("acq0001.JF01T03V01.h5") as file:  # doctest: +SKIP
    ...     for frame in file.frames():
    ...         print(frame.pulse_id, frame.image.mean())
    """

    def __init__(self, path: str | Path, detector: str | None = None):
        self.path = Path(path)
        self._file = open_file(path)
        try:
            with looking_into(path):
                self.group_name = self._choose(detector)
                self._group = self._file["data"][self.group_name]
                self._images = self._dataset("data", "uif", *_IMAGES)
                self._check()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SwissfelFile:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Safe twice."""
        self._file.close()

    def _choose(self, wanted: str | None) -> str:
        groups = groups_of(self._file)
        if wanted is None and len(groups) == 1:
            return groups[0]
        if wanted is None or wanted not in groups:
            expected = "one of them to be named" if wanted is None else f"{wanted!r}"
            found = ", ".join(groups) or "no detector"
            raise FileFormatError(self.path, "/data", found=found, expected=expected)
        return wanted

    def _dataset(self, name: str, kinds: str, shape: str, fits: Callable[[Shape], bool]) -> h5py.Dataset:
        return dataset(self._file, f"data/{self.group_name}/{name}", kinds=kinds, shape=shape, fits=fits)

    def _check(self) -> None:
        if not self.processed and self._images.dtype != np.uint16:
            raise FileFormatError(
                self.path, self._images.name, found=str(self._images.dtype), expected="uint16 in a raw file"
            )
        if not self.processed:
            self._check_modules()
        for name in _COLUMNS:
            getattr(self, name)

    def _check_modules(self) -> None:
        (rows, columns), (height, width) = self.shape, MODULE_SHAPE
        most = DetectorName.parse(self.detector_name).n_modules
        if columns != width or rows % height or not 1 <= rows // height <= most:
            found = f"images of {self.shape}"
            expected = f"1 to {most} modules of {MODULE_SHAPE} stacked in y, for {self.detector_name}"
            raise FileFormatError(self.path, self._images.name, found=found, expected=expected)

    def _column(self, name: str, kinds: str, *, first: bool = False) -> np.ndarray:
        """Read what there is for each frame, of shape (N, n); only the `first` of each, where others are."""
        n = len(self)

        def fits(shape: Shape) -> bool:
            if len(shape) == 2 and not first and math.prod(shape) > MAX_VALUES:
                return False
            return shape == (n,) or (len(shape) == 2 and shape[0] == n and 0 < shape[1] <= MAX_MODULES)

        found = self._dataset(name, kinds, f"({n}, 1)", fits)
        values = read(found, np.s_[:, :1] if first and found.ndim == 2 else ())
        return values if values.ndim == 2 else values[:, None]

    def __len__(self) -> int:
        return self._images.shape[0]

    @property
    def detector_name(self) -> str:
        """The detector, without a region's label."""
        return self.group_name.partition(":")[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self._images.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Type of the images as they are stored."""
        return self._images.dtype

    @cached_property
    def processed(self) -> bool:
        """Whether the images were calibrated when the file was written."""
        return "meta/conversion_factor" in self._group

    @cached_property
    def unit(self) -> str:
        """Unit of the images that `frames` gives: "keV", or "ADU" for raw words, in a processed file too."""
        converted = self.processed and (
            "meta/conversion" not in self._group
            or bool(read(self._dataset("meta/conversion", "biu", "()", lambda shape: shape == ())))
        )
        return "keV" if converted else "ADU"

    @cached_property
    def conversion_factor(self) -> float:
        """Energy of one count of a processed file, keV; 1 where the counts are keV, or the file is raw."""
        if not self.processed:
            return 1.0
        factor = float(read(self._dataset("meta/conversion_factor", "f", "()", lambda shape: shape == ())))
        return 1.0 if math.isnan(factor) else factor

    @cached_property
    def pulse_id(self) -> np.ndarray:
        """Pulse id of each row, uint64, shape (N,); 0 where nothing arrived."""
        return self._column("pulse_id", "ui", first=True)[:, 0].astype(np.uint64)

    @cached_property
    def is_good_frame(self) -> np.ndarray:
        """Whether each row holds a whole frame, bool, shape (N,)."""
        good: np.ndarray = np.logical_and.reduce(self._column("is_good_frame", "uib"), axis=1)
        return good

    @cached_property
    def frame_index(self) -> np.ndarray | None:
        """Detector frame number of each row, uint64, shape (N,); None in processed files."""
        if "frame_index" not in self._group:
            return None
        return self._column("frame_index", "ui", first=True)[:, 0].astype(np.uint64)

    @cached_property
    def daq_rec(self) -> np.ndarray:
        """DAQ word of each row, uint32, shape (N, 1); older files: one per module. Left-overs in bad rows."""
        return self._column("daq_rec", "ui").astype(np.uint32)

    @property
    def highgain(self) -> bool:
        """Whether the detector ran in high gain: the first good frame speaks for the file."""
        good = np.flatnonzero(self.is_good_frame)
        return bool(good.size and self.daq_rec[good[0], 0] & 1)

    @cached_property
    def module_map(self) -> tuple[int, ...] | None:
        """For each module its place in the data, -1 = switched off; None where the file has no map."""
        for name in ("module_map", "meta/module_map"):
            if name in self._group:
                found = self._dataset(name, "iu", "(modules,) or (frames, modules)", self._is_map)
                if 0 in found.shape:
                    return None
                good = np.flatnonzero(self.is_good_frame)
                values = read(found, () if found.ndim == 1 else int(good[0]) if good.size else 0)
                return tuple(int(v) for v in values)
        return None

    def _is_map(self, shape: tuple[int, ...]) -> bool:
        return len(shape) in (1, 2) and shape[-1] <= MAX_MODULES and shape[:-1] in ((), (len(self),))

    def images(self, rows: slice | int | np.ndarray) -> np.ndarray:
        """Read images as they are stored: (y, x) for one row, else (rows, y, x).

        Parameters
        ----------
        rows : slice, int, or ndarray of int or bool
            An array of numbers must ascend, without doubles. All the rows are in memory at once.

        Returns
        -------
        ndarray, shape (y, x) or (rows, y, x)
            Of `dtype`: uint16 words in a raw file; in a processed one counts of `conversion_factor` keV, or
            keV.

        Raises
        ------
        FileFormatError
            The file is cut short or damaged there, or there is no such row.
        """
        return read(self._images, rows)

    def frames(self, *, good_only: bool = True) -> Iterator[Frame]:
        """Yield the frames in the order of the file, one in memory at a time.

        Parameters
        ----------
        good_only : bool
            False yields the rows too in which packets or whole modules are missing; their `is_good` is False.

        Yields
        ------
        Frame
            The image of a raw file is raw words; that of a processed one is keV, float32, unless it was
            written without conversion (see `unit`). A file knows no time, so the timestamp is NaN. The event
            id is the pulse id, or the frame index where nothing arrived.

        Raises
        ------
        FileFormatError
            The file is cut short or damaged at a frame.
        """
        for row in range(len(self)):
            good = bool(self.is_good_frame[row])
            if good or not good_only:
                yield self._frame(row, good)

    def _frame(self, row: int, good: bool) -> Frame:
        image = self.images(row)
        if self.conversion_factor != 1.0:
            image = image.astype(np.float32) * np.float32(self.conversion_factor)
        pulse_id = int(self.pulse_id[row]) or None
        if pulse_id is not None:
            event_id = str(pulse_id)
        else:
            event_id = f"row {row}" if self.frame_index is None else f"frame {int(self.frame_index[row])}"
        return Frame(image, math.nan, event_id, pulse_id, good)


def groups_of(file: h5py.File) -> list[str]:
    """Return the names below ``/data`` that hold Jungfrau images, regions of interest among them.

    Parameters
    ----------
    file : h5py.File
        Open for reading.

    Returns
    -------
    list of str
        E.g. ``["JF01T03V01", "JF01T03V01:ROI_spot"]``.

    Raises
    ------
    FileFormatError
        The file has no group ``/data``.
    """
    data = file.get("data")
    if not isinstance(data, h5py.Group):
        raise FileFormatError(file.filename, "/data", found="nothing", expected="a group per detector")
    return [name for name in data if name.startswith("JF") and isinstance(data.get(name), h5py.Group)]

"""Convert one raw SwissFEL file to a calibrated one: a function of plain values, for any scheduler.

What the calibrated file holds: wire reference jungfrau, section 8.5.
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibration import CalibrationOptions, JungfrauCalibration, disabled_to_map
from ..calibration.options import Roi
from ..errors import (
    FileFormatError,
    RequestError,
    ServiceUnreachable,
    SfdaqError,
    StorageError,
    WireError,
    require,
)
from ..log import advice_of
from ..wire import compression
from ..wire.broker import PEDESTALS
from ..wire.detector_name import MODULE_SHAPE, DetectorName
from ..wire.json_text import load_json
from ._hdf5 import h5py, hdf5plugin, opened
from .constants import Stamps, load_calibration, stamps_of
from .daq_file import BSDATA, CAMERAS, PVDATA
from .storage import leave_open, make_folder, write_whole, writing
from .swissfel_file import SwissfelFile, groups_of

STACK_BYTES = 64 << 20
"""Raw bytes that are read and calibrated at a time."""

_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Conversion:
    """One file to convert.

    Parameters
    ----------
    source, target : str
        Raw file, and the file to make; the target appears whole or not at all.
    detector : str
        Group in the source; empty where it cannot be read, and its name does not tell.
    gain_file : tuple of str
        One HDF5 file, or a binary file per module.
    pedestal_file : str
        ``.res.h5`` file, or a folder of them, from which the nearest in time is taken.
    options : str
        JSON text of `CalibrationOptions`; gain mode and module map come from the file.
    all_frames : bool
        Bad frames too.
    overwrite : bool
        Replace a target that exists.
    threads : int
        Threads for calibrating and for compressing.
    """

    source: str
    target: str
    detector: str
    gain_file: tuple[str, ...]
    pedestal_file: str
    options: str = "{}"
    all_frames: bool = False
    overwrite: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a `Conversion`.

    Parameters
    ----------
    source, target : str
        As asked for.
    n_frames : int
        Frames in the target; 0 where none was made.
    state : {"converted", "present", "failed"}
        "present": the target was there and stays.
    message, advice, traceback : str
        Why it failed; what a person does, and where it comes from.
    """

    source: str
    target: str
    n_frames: int
    state: str
    message: str = ""
    advice: str = field(default="", repr=False, compare=False)
    traceback: str = field(default="", repr=False, compare=False)


def convert(job: Conversion) -> Converted:
    """Make the calibrated file of a raw one; an error becomes a `Converted` of state "failed".

    One bad file does not stop a folder.

    Parameters
    ----------
    job : Conversion
        Which file, with which constants and options; `plan` makes them.

    Returns
    -------
    Converted
        The target appears under its name once it is whole. What is there stays, unless `job.overwrite`.

    Notes
    -----
    See wire reference jungfrau, section 8.5.
    """
    if Path(job.target).exists() and not job.overwrite:
        return Converted(job.source, job.target, 0, "present")
    try:
        return Converted(job.source, job.target, _convert(job), "converted")
    except (SfdaqError, OSError) as exc:
        where = "".join(traceback.format_exception(exc))  # as text, for it may come from another machine
        return Converted(job.source, job.target, 0, "failed", str(exc), advice_of(exc), where)


def _convert(job: Conversion) -> int:
    part = Path(f"{job.target}.part")
    make_folder(part.parent)
    part.unlink(missing_ok=True)
    try:
        with SwissfelFile(job.source, job.detector) as source:
            if source.processed:
                raise FileFormatError(
                    job.source, source.group_name, found="processed images", expected="raw ones"
                )
            rows = np.arange(len(source)) if job.all_frames else np.flatnonzero(source.is_good_frame)
            if not len(rows):
                found = f"{len(source)} frames, none of them to be kept"
                raise FileFormatError(job.source, source.group_name, found=found, expected="good frames")
            options = CalibrationOptions.from_json(job.options).with_(highgain=source.highgain)
            module_map, blocks = _modules(source, options.module_map)
            calibration = _calibration(job, options.with_(module_map=module_map))
            with ProcessedFile(part, calibration, len(rows), threads=job.threads) as target:
                _copy(source, rows, blocks, target)
        os.replace(part, job.target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return len(rows)


def _copy(source: SwissfelFile, rows: np.ndarray, blocks: list[int] | None, target: ProcessedFile) -> None:
    """Write some rows, and of their images only these blocks, in this order; None: all."""
    target.write_columns(
        pulse_id=source.pulse_id[rows, None],
        daq_rec=source.daq_rec[rows],
        is_good_frame=source.is_good_frame[rows, None].astype(np.uint8),
    )
    step = max(1, STACK_BYTES // (2 * source.shape[0] * source.shape[1]))
    for first in range(0, len(rows), step):
        wanted = rows[first : first + step]
        images = source.images(slice(int(wanted[0]), int(wanted[-1]) + 1))
        images = images if len(images) == len(wanted) else images[wanted - wanted[0]]
        if blocks is not None:
            modules = images.reshape(len(images), -1, *MODULE_SHAPE)
            images = modules[:, blocks].reshape(len(images), -1, MODULE_SHAPE[1])
        target.write(first, images)


def _modules(
    source: SwissfelFile, asked: tuple[int, ...] | None
) -> tuple[tuple[int, ...] | None, list[int] | None]:
    """Return the module map of what is converted, and which blocks of the images that is; None: all.

    Where the file says which modules its images hold, that holds, and those that are off in the `asked` map
    are left out. FileFormatError if it speaks of other modules than its images have.
    """
    theirs = source.module_map
    if theirs is None or asked is None:
        return (asked if theirs is None else theirs), None
    n_blocks, n_held = source.shape[0] // MODULE_SHAPE[0], sum(place >= 0 for place in theirs)
    whole = n_blocks == len(asked)
    if len(theirs) != len(asked) or not (whole or n_blocks == n_held > max(theirs)):
        raise FileFormatError(
            source.path,
            f"data/{source.group_name}/module_map",
            found=f"{theirs}, and images of {n_blocks} modules",
            expected=f"{len(asked)} values, with a place for each module of the images",
        )
    held = [place if wanted >= 0 else -1 for place, wanted in zip(theirs, asked)]
    blocks = sorted(place for place in held if place >= 0)
    module_map = tuple(-1 if place < 0 else blocks.index(place) for place in held)
    return module_map, None if whole else blocks


def _calibration(job: Conversion, options: CalibrationOptions) -> JungfrauCalibration:
    name, pedestal = job.detector.partition(":")[0], job.pedestal_file
    if Path(pedestal).is_dir():
        pedestal = str(nearest_pedestal(job.source, job.detector, pedestal))
    with _LOADING:
        stamps = stamps_of(job.gain_file, pedestal)
        return _cached_calibration(name, job.gain_file, pedestal, options.to_json(), job.threads, stamps)


@lru_cache(maxsize=4)
def _cached_calibration(
    name: str, gain_file: tuple[str, ...], pedestal_file: str, options: str, threads: int, _: Stamps
) -> JungfrauCalibration:
    """Load constants once per process, not once per file; anew when one of their files has changed."""
    gain = gain_file[0] if len(gain_file) == 1 else gain_file
    chosen = CalibrationOptions.from_json(options).as_dict()
    return load_calibration(name, gain, pedestal_file, n_threads=threads, **chosen)


def raw_detectors(path: str | Path) -> list[str]:
    """Return the groups of a file that are for raw Jungfrau images; none for files of other kinds.

    Parameters
    ----------
    path : str or Path
        An HDF5 file.

    Returns
    -------
    list of str
        E.g. ``["JF01T03V01"]``.

    Raises
    ------
    FileFormatError
        It cannot be read.
    """
    with opened(path) as file:
        if not isinstance(file.get("data"), h5py.Group):
            return []
        return [name for name in groups_of(file) if "meta" not in file["data"][name]]


def nearest_pedestal(source: str | Path, detector: str, folder: str | Path) -> Path:
    """Return the detector's ``.res.h5`` file in `folder` that is nearest in time to the data file.

    Parameters
    ----------
    source : str or Path
        The data file.
    detector : str
        E.g. ``"JF01T03V01"``, as in the names of the pedestals.
    folder : str or Path
        Such as the pgroup's ``JF_pedestals``.

    Returns
    -------
    Path
        Times are those when the files were last written.

    Raises
    ------
    FileFormatError
        The folder has no pedestal of this detector.
    OSError
        The data file is not there.
    """
    found = sorted(Path(folder).glob(f"*.{detector}.res.h5"))
    if not found:
        raise FileFormatError(
            folder, f"*.{detector}.res.h5", found="no such file", expected="a pedestal file"
        )
    taken = Path(source).stat().st_mtime
    return min(found, key=lambda path: abs(path.stat().st_mtime - taken))


RECORD = ".sfdaq-convert.json"
"""In the output folder: how its files were made, so that a later call goes on in the same way."""

STANDARD_GAIN = "/sf/jungfrau/config/gainMaps/{detector}/gains.h5"
"""Where the facility keeps gain maps."""


def plan(
    source: Path,
    target: Path,
    *,
    gain_files: tuple[str, ...] = (),
    pedestal: Path | None = None,
    options: CalibrationOptions,
    disabled_modules: tuple[int, ...] = (),
    all_frames: bool = False,
    overwrite: bool = False,
    threads: int = 1,
) -> list[Conversion]:
    """Return a conversion for each raw Jungfrau detector in each file below `source`, folders mirrored.

    A file that cannot be read gets one too, which fails and says why.

    Parameters
    ----------
    source : Path
        A file or a folder.
    target : Path
        Output folder; it must not be the source's.
    gain_files : tuple of str
        One HDF5 file, in which ``{detector}`` stands for the name, or binary files; default `STANDARD_GAIN`.
    pedestal : Path, optional
        A ``.res.h5`` file, or a folder of them, from which the nearest in time is taken; default is the first
        ``JF_pedestals`` beside the source or above it.
    disabled_modules : tuple of int
        Modules to leave out.
    options, all_frames, overwrite, threads
        As `Conversion`.

    Raises
    ------
    RequestError
        No such source, nothing to convert, or `target` holds files that were made in another way.
    """
    if not source.exists():
        raise RequestError("IN", str(source), "a file or a folder that exists")
    top = source if source.is_dir() else source.parent
    if target.resolve() == top.resolve():
        raise RequestError("OUT", str(target), "a folder other than that of the raw files")
    jobs = []
    for path, detector, name in _sources(source, top, target):
        gains = tuple(str(gain).replace("{detector}", detector) for gain in gain_files or (STANDARD_GAIN,))
        jobs.append(
            Conversion(
                source=str(path),
                target=str(target / name),
                detector=detector,
                gain_file=gains,
                pedestal_file=str(_pedestals_for(path, pedestal)),
                options=_without(disabled_modules, detector, options).to_json(),
                all_frames=all_frames,
                overwrite=overwrite,
                threads=threads,
            )
        )
    if not jobs:
        raise RequestError("IN", str(source), "HDF5 files with raw Jungfrau images")
    settings = {
        "options": options.to_json(),
        "disabled_modules": list(disabled_modules),
        "gain": list(gain_files),
        "pedestal": str(pedestal or ""),
        "all_frames": all_frames,
    }
    _check_record(target / RECORD, settings, overwrite)
    return jobs


def _sources(source: Path, top: Path, target: Path) -> Iterator[tuple[Path, str, Path]]:
    """Yield (raw file, detector, name of its output below the target)."""
    inside = target.resolve()
    for path in sorted(source.rglob("*.h5")) if source.is_dir() else [source]:
        if inside in path.resolve().parents or PEDESTALS in path.parts or os.path.isdir(path):
            continue
        try:
            detectors = raw_detectors(path)
        except FileFormatError:  # which converting it will say
            detectors = _detectors_by_name(path)
        for detector in detectors:
            relative = path.relative_to(top)
            if len(detectors) > 1:
                relative = relative.with_name(f"{relative.stem}.{detector.replace(':', '.')}.h5")
            yield path, detector, relative


def _detectors_by_name(path: Path) -> list[str]:
    """Return the detector that ``acqNNNN.<detector>.h5`` is of; one without a name where it says nothing."""
    word = path.stem.rpartition(".")[2]
    if word in (PVDATA, BSDATA, CAMERAS):
        return []
    try:
        DetectorName.parse(word)
    except RequestError:
        return [""]
    return [word]


def _without(modules: tuple[int, ...], detector: str, options: CalibrationOptions) -> CalibrationOptions:
    name = detector.partition(":")[0]
    if not name:
        return options
    return options.with_(module_map=disabled_to_map(name, modules)) if modules else options


def _pedestals_for(path: Path, given: Path | None) -> Path:
    folder = given or next((f / PEDESTALS for f in path.resolve().parents if (f / PEDESTALS).is_dir()), None)
    if folder is None:
        raise RequestError("pedestal", None, f"a file or folder: no {PEDESTALS} lies beside or above {path}")
    return folder


def _check_record(record: Path, settings: dict, overwrite: bool) -> None:
    """Refuse to mix files made in different ways; else write down how these are made."""
    if record.exists() and not overwrite:
        try:
            theirs = load_json(record.read_bytes())
        except WireError as exc:
            raise RequestError("OUT", str(record), "a record of an earlier conversion") from exc
        if theirs != settings:
            theirs = theirs if isinstance(theirs, dict) else {}
            changed = {name: theirs.get(name) for name in settings if theirs.get(name) != settings[name]}
            raise RequestError(
                "OUT", str(record.parent), f"a folder made with the same settings, not {changed}"
            )
    write_whole(record, json.dumps(settings))


def run(jobs: list[Conversion], *, scheduler: str | None = None, workers: int = 1) -> Iterator[Converted]:
    """Yield results as they come: from local threads, one file each, or from the workers of a Dask cluster.

    Parameters
    ----------
    jobs : list of Conversion
        What to do; a cluster's workers must see the same paths.
    scheduler : str, optional
        ``tcp://host:port`` of a Dask scheduler.
    workers : int
        Local threads.
    """
    if scheduler is None:
        yield from _run_locally(jobs, workers)
        return
    require("cluster", "a conversion on a Dask cluster", "distributed")
    from distributed import Client, as_completed

    try:
        client = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as exc:
        raise ServiceUnreachable("Dask's scheduler", url=scheduler, reason=exc) from exc
    with client:
        futures = client.map(convert, jobs, pure=False)
        for future in as_completed(futures, loop=client.loop):
            yield future.result()


def _run_locally(jobs: list[Conversion], workers: int) -> Iterator[Converted]:
    """Convert in daemon threads, which a Ctrl-C need not wait for; results come over a queue."""
    waiting: queue.SimpleQueue[Conversion] = queue.SimpleQueue()
    done: queue.SimpleQueue[Converted | BaseException] = queue.SimpleQueue()
    ended = threading.Event()
    for job in jobs:
        waiting.put(job)

    def work() -> None:
        with suppress(queue.Empty):
            while not ended.is_set():
                job = waiting.get_nowait()
                try:
                    done.put(convert(job))
                except BaseException as exc:
                    done.put(exc)

    for _ in range(min(workers, len(jobs))):
        threading.Thread(target=work, name="convert", daemon=True).start()
    try:
        for _ in jobs:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        ended.set()


BLOCK_ITEMS = 32768
"""Pixels that bitshuffle takes together."""


class ProcessedFile:
    """A new file of calibrated frames; a context manager.

    The calibration makes the images, and is described in ``meta``. Its regions of interest become groups of
    their own. Every dataset has `n_frames` rows.
    """

    def __init__(
        self, path: str | Path, calibration: JungfrauCalibration, n_frames: int, *, threads: int = 2
    ):
        self._calibration = calibration
        self._n_frames = n_frames
        self._images: dict[str | None, h5py.Dataset] = {}
        self.path, self._broken = Path(path), False
        with writing(path, "making"):
            self._file = h5py.File(path, "x")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compress")
        try:
            with self._writing():
                self._file["general/detector_name"] = calibration.detector_name
                rois = calibration.options.roi
                name = f"data/{calibration.detector_name}"
                self._images = (
                    {None: self._group(name, None)}
                    if rois is None
                    else {label: self._group(f"{name}:ROI_{label}", roi) for label, roi in rois.items()}
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ProcessedFile:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Safe twice."""
        self._pool.shutdown()
        if not self._broken:
            with self._writing():
                self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing(self.path):
                yield
        except StorageError:
            self._broken = True
            leave_open(self._file, *self._images.values())
            raise

    def _group(self, name: str, roi: Roi | None) -> h5py.Dataset:
        """Make a group with its ``meta`` and its empty images; return these."""
        calibration = self._calibration
        shape = calibration.shape if roi is None else (roi[1] - roi[0], roi[3] - roi[2])
        group = self._file.create_group(name)
        for key, value in _meta(calibration, roi).items():
            group[f"meta/{key}"] = value
        return group.create_dataset(
            "data",
            shape=(self._n_frames, *shape),
            chunks=(1, *shape),
            dtype=calibration.dtype,
            **hdf5plugin.Bitshuffle(nelems=BLOCK_ITEMS, cname="lz4"),
        )

    def write_columns(self, **columns: np.ndarray) -> None:
        """Write numbers per frame, e.g. ``pulse_id``, each of shape (frames, ...), beside the images."""
        with self._writing():
            for images in self._images.values():
                for name, values in columns.items():
                    images.parent[name] = values

    def write(self, first_row: int, raw: np.ndarray) -> None:
        """Calibrate a stack of raw images, and write them from row `first_row` on.

        Parameters
        ----------
        first_row : int
            Where the first of them goes, from 0.
        raw : ndarray of uint16, shape (frames, y, 1024)
            Modules stacked in y, as the calibration takes them.

        Raises
        ------
        ShapeError
            The images are not of the calibration's detector.
        StorageError
            The disk did not take them.
        """
        parts: dict[str | None, npt.NDArray[Any]] = {}
        if self._calibration.options.roi is None:
            parts[None] = self._calibration(raw)
        else:
            parts.update(self._calibration.regions(raw))
        with self._writing():
            for label, images in parts.items():
                self._write_images(self._images[label], first_row, images)

    def _write_images(self, target: h5py.Dataset, first_row: int, images: npt.NDArray[Any]) -> None:
        if not compression.available():
            target[first_row : first_row + len(images)] = images
            return
        chunks = self._pool.map(lambda image: compression.compress_bslz4(image, BLOCK_ITEMS), images)
        for row, chunk in enumerate(chunks, first_row):
            target.id.write_direct_chunk((row, 0, 0), chunk)


def _meta(calibration: JungfrauCalibration, roi: Roi | None) -> dict[str, Any]:
    options = calibration.options
    mask, reasons = calibration.pixel_mask, calibration.pixel_mask_reasons
    meta = {
        "module_map": np.array(calibration.module_map, dtype=np.int64),
        "conversion": options.conversion,
        "mask": calibration.masking,
        "gap_pixels": options.gap_pixels,
        "geometry": options.geometry,
        "double_pixels": options.double_pixels,
        "module_edge_pixels": options.module_edge_pixels,
        "downsample": np.array(options.downsample or (1, 1), dtype=np.int64),
        "conversion_factor": math.nan if options.factor is None else options.factor,
    }
    if roi is None:
        return meta | {
            "pixel_mask": mask,
            "pixel_mask_reasons": reasons,
            "good_pixels_fraction": calibration.good_fraction,
        }
    y1, y2, x1, x2 = roi
    return meta | {
        "roi": np.array([[y1, y2], [x1, x2]], dtype=np.int64),
        "pixel_mask": mask[y1:y2, x1:x2],
        "pixel_mask_reasons": reasons[y1:y2, x1:x2],
    }

"""Convert one raw SwissFEL file to a calibrated one: a function of plain values, fit for any scheduler."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..calibration import CalibrationOptions, JungfrauCalibration
from ..errors import FileFormatError, SfdaqError
from ._hdf5 import opened
from ._storage import make_folder
from .constants import load_calibration
from .processed_file import ProcessedFile
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
        Group in the source.
    gain_file : tuple of str
        One HDF5 file, or a binary file per module.
    pedestal_file : str
        ``.res.h5`` file.
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
    message : str
        Why it failed.
    """

    source: str
    target: str
    n_frames: int
    state: str
    message: str = ""


def convert(job: Conversion) -> Converted:
    """Do it; an error becomes a `Converted` of state "failed", so one bad file does not stop a folder."""
    if Path(job.target).exists() and not job.overwrite:
        return Converted(job.source, job.target, 0, "present")
    try:
        return Converted(job.source, job.target, _convert(job), "converted")
    except (SfdaqError, OSError) as exc:
        return Converted(job.source, job.target, 0, "failed", str(exc))


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
            calibration = _calibration(job, source.highgain, source.module_map)
            with ProcessedFile(part, calibration, len(rows), threads=job.threads) as target:
                _copy(source, rows, target)
        os.replace(part, job.target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return len(rows)


def _copy(source: SwissfelFile, rows: np.ndarray, target: ProcessedFile) -> None:
    target.write_columns(
        pulse_id=source.pulse_id[rows, None],
        daq_rec=source.daq_rec[rows],
        is_good_frame=source.is_good_frame[rows, None].astype(np.uint8),
    )
    step = max(1, STACK_BYTES // (2 * source.shape[0] * source.shape[1]))
    for first in range(0, len(rows), step):
        wanted = rows[first : first + step]
        images = source.images(slice(int(wanted[0]), int(wanted[-1]) + 1))
        target.write(first, images if len(images) == len(wanted) else images[wanted - wanted[0]])


def _calibration(job: Conversion, highgain: bool, module_map: tuple[int, ...] | None) -> JungfrauCalibration:
    options = CalibrationOptions.from_json(job.options).with_(highgain=highgain)
    if options.module_map is None:
        options = options.with_(module_map=module_map)
    name = job.detector.partition(":")[0]
    with _LOADING:
        return _cached_calibration(name, job.gain_file, job.pedestal_file, options.to_json(), job.threads)


@lru_cache(maxsize=4)
def _cached_calibration(name, gain_file, pedestal_file, options, threads):
    """Load constants once per process, not once per file."""
    gain = gain_file[0] if len(gain_file) == 1 else gain_file
    chosen = CalibrationOptions.from_json(options).as_dict()
    return load_calibration(name, gain, pedestal_file, n_threads=threads, **chosen)


def raw_detectors(path: str | Path) -> list[str]:
    """Return the groups of a file that hold raw Jungfrau images; none for files of other kinds."""
    try:
        with opened(path) as file:
            data = {name: file["data"][name] for name in groups_of(file)}
            return [name for name, group in data.items() if "data" in group and "meta" not in group]
    except FileFormatError:
        return []


def nearest_pedestal(source: str | Path, detector: str, folder: str | Path) -> Path:
    """Return the detector's ``.res.h5`` file in `folder` that is nearest in time to the data file."""
    found = sorted(Path(folder).glob(f"*.{detector}.res.h5"))
    if not found:
        raise FileFormatError(
            folder, f"*.{detector}.res.h5", found="no such file", expected="a pedestal file"
        )
    taken = Path(source).stat().st_mtime
    return min(found, key=lambda path: abs(path.stat().st_mtime - taken))

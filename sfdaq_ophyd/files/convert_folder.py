"""Plan the conversion of a folder, and run it on a Dask scheduler."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..calibration import CalibrationOptions, disabled_to_map
from ..errors import RequestError, ServiceUnreachable, WireError, require
from ..wire.json_text import load_json
from .convert import Conversion, Converted, convert, nearest_pedestal, raw_detectors

RECORD = ".sfdaq-convert.json"
"""In the output folder: how its files were made, so that a later call goes on in the same way."""

STANDARD_GAIN = "/sf/jungfrau/config/gainMaps/{detector}/gains.h5"
"""Where the facility keeps gain maps."""


PEDESTALS = "JF_pedestals"
"""Name of the folder in a pgroup's ``raw`` where the facility puts pedestal runs."""


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
                pedestal_file=str(_pedestal_for(path, detector, pedestal)),
                options=_options_for(detector, options, disabled_modules).to_json(),
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
        if inside in path.resolve().parents or PEDESTALS in path.parts:
            continue
        detectors = raw_detectors(path)
        for detector in detectors:
            relative = path.relative_to(top)
            if len(detectors) > 1:
                relative = relative.with_name(f"{relative.stem}.{detector.replace(':', '.')}.h5")
            yield path, detector, relative


def _options_for(detector, options, disabled_modules):
    if not disabled_modules:
        return options
    name = detector.partition(":")[0]
    return options.with_(module_map=disabled_to_map(name, disabled_modules))


def _pedestal_for(path: Path, detector: str, given: Path | None) -> Path:
    folder = given or next((f / PEDESTALS for f in path.resolve().parents if (f / PEDESTALS).is_dir()), None)
    if folder is None:
        raise RequestError("pedestal", None, f"a file or folder: no {PEDESTALS} lies beside or above {path}")
    return nearest_pedestal(path, detector, folder) if folder.is_dir() else folder


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
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings))


def run(jobs: list[Conversion], *, scheduler: str | None = None, workers: int = 1) -> Iterator[Converted]:
    """Yield results as they come: from local threads, or from the workers of a Dask cluster.

    Parameters
    ----------
    jobs : list of Conversion
        What to do; a cluster's workers must see the same paths.
    scheduler : str, optional
        ``tcp://host:port`` of a Dask scheduler.
    workers : int
        Local threads, one file each.
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


def _run_locally(jobs, workers):
    """Convert in daemon threads, which a Ctrl-C need not wait for; results come over a queue."""
    waiting, done, ended = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
    for job in jobs:
        waiting.put(job)

    def work():
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

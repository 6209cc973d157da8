"""``sfdaq convert``: raw Jungfrau files to calibrated ones."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..calibration import CalibrationOptions
from ..errors import RequestError
from ..files.convert import plan, run
from .failed_files import FailedFiles

SHOWN = "source", "target", "n_frames", "state", "message"
"""What ``--json`` tells of a file."""


def _numbers(text: str, n: int, name: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != n:
        raise RequestError(name, text, f"{n} integers with commas between")
    return values


def _modules(text: str) -> tuple[int, ...]:
    return tuple(_numbers(text, text.count(",") + 1, "--disabled-modules"))


def _downsample(text: str) -> tuple[int, int]:
    y, x = _numbers(text, 2, "--downsample")
    return y, x


def _regions(texts: list[str]) -> dict[str, tuple[int, int, int, int]] | None:
    regions = {}
    for i, text in enumerate(texts):
        label, equals, numbers = text.rpartition("=")
        y1, y2, x1, x2 = _numbers(numbers, 4, "--roi")
        regions[label if equals else str(i)] = y1, y2, x1, x2
    return regions or None


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Raw file, or folder with raw files.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the calibrated files.")],
    gain: Annotated[
        list[Path] | None,
        typer.Option(help="Gain maps: HDF5, with {detector} for the name, or binary files, one per module."),
    ] = None,
    pedestal: Annotated[
        Path | None, typer.Option(help="Pedestal file, or folder: the nearest in time is taken.")
    ] = None,
    factor: Annotated[float | None, typer.Option(help="keV per count; gives int32.")] = None,
    mask: Annotated[bool, typer.Option(help="Set bad pixels to 0.")] = True,
    gap_pixels: Annotated[bool, typer.Option(help="Put gaps between chips.")] = True,
    geometry: Annotated[bool, typer.Option(help="Put modules in their places.")] = True,
    double_pixels: Annotated[str, typer.Option(help="keep, mask or interp.")] = "keep",
    module_edge_pixels: Annotated[str, typer.Option(help="keep or mask.")] = "keep",
    downsample: Annotated[str | None, typer.Option(help="NY,NX: sum blocks of pixels.")] = None,
    roi: Annotated[
        list[str] | None, typer.Option(help="[LABEL=]Y1,Y2,X1,X2 of the image; may be repeated.")
    ] = None,
    disabled_modules: Annotated[str | None, typer.Option(help="Modules to leave out, e.g. 0,3.")] = None,
    bad_constants: Annotated[str, typer.Option(help="raise or mask: gains of 0 or NaN.")] = "raise",
    all_frames: Annotated[bool, typer.Option("--all-frames", help="Keep bad frames too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="tcp://HOST:PORT of a Dask cluster that sees the same files.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Files at a time on this machine.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Convert raw Jungfrau files to calibrated images.

    Files that are there already stay, so a stopped conversion goes on where it was when called again.

    Example: sfdaq convert p12345/raw/run0007 p12345/work/run0007 --factor 9.3 --gain gains.h5
    """
    options = CalibrationOptions(
        factor=factor,
        mask=None if mask else False,
        gap_pixels=gap_pixels,
        geometry=geometry,
        double_pixels=double_pixels,
        module_edge_pixels=module_edge_pixels,
        downsample=None if downsample is None else _downsample(downsample),
        roi=_regions(roi or []),
        bad_constants=bad_constants,
    )
    jobs = plan(
        source,
        target,
        gain_files=tuple(map(str, gain or ())),
        pedestal=pedestal,
        options=options,
        disabled_modules=_modules(disabled_modules) if disabled_modules else (),
        all_frames=all_frames,
        overwrite=overwrite,
        threads=max(1, len(os.sched_getaffinity(0)) // workers),
    )
    failed = FailedFiles()
    results = list(_shown(run(jobs, scheduler=scheduler, workers=workers), len(jobs), as_json, failed))
    if as_json:
        typer.echo(json.dumps([{name: getattr(r, name) for name in SHOWN} for r in results], indent=2))
    failed.end(len(results))
    if failed.n:
        raise typer.Exit(1)


def _shown(results, n_jobs, as_json, failed):
    """Pass results on; a bar on a terminal, and a line per file; of those that failed, the first ones."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("convert", total=n_jobs)
        for result in results:
            progress.advance(task)
            if result.state == "failed":
                named = result.message.startswith(result.source)
                text = result.message if named else f"{result.source}: {result.message}"
                failed.add(text, result.advice, result.traceback)
            elif not as_json:
                frames = f", {result.n_frames} frames" if result.state == "converted" else ""
                typer.echo(f"{result.target}: {result.state}{frames}")
            yield result

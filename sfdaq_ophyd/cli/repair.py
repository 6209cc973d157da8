"""``sfdaq repair``: files whose writer was killed."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Annotated

import typer

from ..errors import FileFormatError, SfdaqError
from ..files.repair import repair as repair_file
from ..log import advice_of
from .failed_files import FailedFiles


def repair(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="HDF5 files.")],
) -> None:
    """Make files openable whose writer was killed.

    They are changed in place: HDF5's mark that somebody writes is taken off, and ids without an image are
    cut. The empty file that stands for one or several of the standard DAQ shows their images. A file that a
    process has open is refused. Doing it twice is harmless.

    Example: sfdaq repair data/eiger_20261126_120000_0a1b2c3d.h5
    """
    failed = FailedFiles()
    for file in files:
        try:
            done = repair_file(file)
        except SfdaqError as exc:
            advice = "" if isinstance(exc, FileFormatError) else advice_of(exc)  # that tells of this command
            failed.add(str(exc), advice, "".join(traceback.format_exception(exc)))
        else:
            typer.echo(f"{file}: {'repaired' if done else 'nothing to do'}")
    failed.end(len(files))
    if failed.n:
        raise typer.Exit(1)

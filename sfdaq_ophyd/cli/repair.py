"""``sfdaq repair``: files whose writer was killed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SfdaqError
from ..files.repair import repair as repair_file
from ..log import keep_log

MOST_SHOWN = 8
"""Failed files that are shown; all are in the log."""

logger = logging.getLogger(__name__)


def repair(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="HDF5 files.")],
) -> None:
    """Make files openable whose writer was killed.

    They are changed in place: HDF5's mark that somebody writes is taken off, and ids without an image are
    cut. The empty file that stands for one or several of the standard DAQ shows their images. A file that a
    process has open is refused. Doing it twice is harmless.

    Example: sfdaq repair data/eiger_20261126_120000_0a1b2c3d.h5
    """
    failed = 0
    for file in files:
        try:
            done = repair_file(file)
        except SfdaqError as exc:
            failed += 1
            logger.info("%s", exc)
            if failed <= MOST_SHOWN:
                print(f"sfdaq: {exc!s:.700}", file=sys.stderr)
        else:
            typer.echo(f"{file}: {'repaired' if done else 'nothing to do'}")
    if failed > MOST_SHOWN:
        print(f"sfdaq: {failed} of {len(files)} files failed; all are in {keep_log()}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)

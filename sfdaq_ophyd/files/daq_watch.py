"""Whether a file that the DAQ announced is there, whole and readable; if not, what its writer says."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileFormatError
from ..wire.broker import error_file, log_file
from .daq_file import PVDATA, FoundData, read_daq_file

CLOSING = "processing request took"
"""In the last line of a writer's log."""

SETTLED = 2.0
"""s a file must stand unchanged, where no log says that its writer is done; and s given to a file system to
show what a log says is there."""

SETTLED_UNDER_A_LOG = 30.0
"""The same where a log says that its writer is not done."""

SETTLED_PVS = 0.5
"""The same for PVDATA, whose writer's log has no closing line, and which is written in one go."""

_TAIL = 4096


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at an announced file showed.

    Attributes
    ----------
    found : list of FoundData, or None
        What is in it, once it is whole.
    failure : str
        Why it will not come; empty while it may.
    seen : str
        The state, for the message of a timeout.
    """

    found: list[FoundData] | None = None
    failure: str = ""
    seen: str = ""


def look_at(path: Path, source: str, *, names: Sequence[str] = (), finished: bool = False) -> Look:
    """Look once, without waiting.

    Parameters
    ----------
    path : Path
        Where the file will be on this machine, in the ``data/`` or ``raw_data/`` of a run.
    source : str
        ``PVDATA``, ``BSDATA``, ``CAMERAS``, or a detector's name.
    names : sequence of str
        Channels that must be in it.
    finished : bool
        Its writer was heard to be done.
    """
    log = Path(log_file(str(path)))
    if os.path.exists(error_file(str(path))):
        return Look(failure=f"the writer failed: {last_words(path)}")
    try:
        stat = path.stat()
    except FileNotFoundError:
        return _look_at_nothing(path, log)
    age, words = time.time() - stat.st_mtime, _tail(log)
    closed = finished or CLOSING in _last(words)
    without_log = SETTLED_PVS if source == PVDATA else SETTLED
    if not closed and age <= (SETTLED_UNDER_A_LOG if words else without_log):
        return Look(seen=f"being written, {stat.st_size} bytes")
    try:
        return Look(found=read_daq_file(path, source, names))
    except (OSError, FileFormatError) as exc:
        if closed and age > SETTLED:
            return Look(failure=f"damaged: {exc}")
        return Look(seen=f"not readable yet ({exc})")


def last_words(path: Path) -> str:
    """Return the last line of the log of a file's writer."""
    return _last(_tail(Path(log_file(str(path))))) or "it has no log"


def _look_at_nothing(path: Path, log: Path) -> Look:
    try:
        silent = time.time() - log.stat().st_mtime
    except FileNotFoundError:
        return Look(seen="not begun: neither file nor log")
    tail = _tail(log) if silent > SETTLED else []
    if CLOSING in _last(tail) and not path.exists():  # it may have come since the first look
        return Look(failure=f"the writer says it is done, and there is no file; its log: {tail[-2:]}")
    return Look(seen="begun, no file yet")


def _last(lines: list[str]) -> str:
    return lines[-1] if lines else ""


def _tail(path: Path) -> list[str]:
    """Return the last lines of a log that hold something."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read(_TAIL).decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]

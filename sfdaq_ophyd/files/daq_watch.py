"""Whether a file that the DAQ announced is there, whole and readable; if not, what its writer says."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileFormatError
from ..wire.broker_paths import error_file, log_file
from .daq_file import PVDATA, FoundData, read_daq_file

CLOSING = "processing request took"
"""In the last line of a writer's log."""

SETTLED = 2.0
"""s a file must stand unchanged, where no log says that its writer is done; and s given to a file system to
show what a log says is there."""

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


def look_at(path: Path, source: str) -> Look:
    """Look once, without waiting.

    Parameters
    ----------
    path : Path
        Where the file will be on this machine, in the ``data/`` or ``raw_data/`` of a run.
    source : str
        ``PVDATA``, ``BSDATA``, ``CAMERAS``, or a detector's name.
    """
    tail = _tail(Path(log_file(str(path))))
    last_line = tail[-1] if tail else ""
    if Path(error_file(str(path))).exists():
        return Look(failure=f"the writer failed: {last_line or 'no log, see the .err beside it'}")
    closed = CLOSING in last_line
    try:
        state = path.stat()
    except FileNotFoundError:
        if closed and time.time() - _modified(Path(log_file(str(path)))) > SETTLED:
            said = tail[-2] if len(tail) > 1 else last_line
            return Look(failure=f"the writer says it is done, and there is no file; before that: {said!r}")
        return Look(seen=f"not there; log: {last_line!r}" if last_line else "not there, no log: not begun")
    unchanged = time.time() - state.st_mtime > SETTLED
    try:
        found = read_daq_file(path, source)
    except (OSError, FileFormatError) as exc:
        if closed and unchanged:
            return Look(failure=f"damaged: {exc}")
        return Look(seen=f"not readable yet ({exc})")
    if closed or unchanged or source == PVDATA:
        return Look(found=found)
    return Look(seen="being written")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _tail(path: Path) -> list[str]:
    """Return the last lines of a log that hold something."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read(_TAIL).decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]

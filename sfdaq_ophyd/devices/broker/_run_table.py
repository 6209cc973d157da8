"""The run table: one file per run, a line per event in the life of its acquisitions, safe against a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...errors import WireError
from ...wire.json_text import load_json

ASKING, ASKED, COMPLETE, FAILED = "asking", "asked", "complete", "failed"
READ, REGISTERED, UNKNOWN, REFUSED, RUN = "read", "registered", "unknown", "refused", "run"
RETAKEN = "retaken"
"""What a line can say. ``asking`` is written before the request is sent, ``asked`` after its reply, and
``retaken`` if the point was taken again after that: its event has another acquisition."""


class RunTable:
    """Append-only record of one run.

    Parameters
    ----------
    path : str or Path
        Made with the first line; an existing one is continued.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, what: str, index: int | None = None, **facts: Any) -> None:
        """Append a line about acquisition `index` of the run, or about the run."""
        line = {"what": what, "time": time.time(), **({} if index is None else {"index": index}), **facts}
        text = "\n" + json.dumps(line)  # a line cut off by a crash does not spoil the next
        with self.path.open("ab", buffering=0) as file:  # in one piece: two threads write
            file.write(text.encode())

    def rows(self) -> list[dict[str, Any]]:
        """Return the acquisitions in order: all facts about each, and `state`, the last one that counts."""
        return read_rows(self.path)


def note_checked(table: RunTable, index: int) -> Callable[[list[dict], dict[str, str]], None]:
    """Return what notes the files of an acquisition once they are checked: data found, failures by file."""

    def note(found: list[dict], failures: dict[str, str]) -> None:
        table.write(FAILED if failures else COMPLETE, index, found=found, failures=failures)

    return note


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the lines; one cut off by a crash is left out."""
    with Path(path).open() as file:
        for text in file:
            try:
                line = load_json(text)
            except WireError:
                continue
            if isinstance(line, dict):
                yield line


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Return the acquisitions of a table: see `RunTable.rows`."""
    rows: dict[int, dict[str, Any]] = {}
    for line in read_lines(path):
        if "index" not in line:
            continue
        row = rows.setdefault(line["index"], {"read": False, "registered": False})
        what = line.pop("what")
        if what in (READ, REGISTERED):
            row[what] = True
            continue
        if what == RETAKEN:
            row[READ] = False
            continue
        row |= line
        row["state"] = what
    return [rows[index] for index in sorted(rows)]


def read_run(path: str | Path) -> dict[str, Any]:
    """Return what is known of the run as a whole: the lines without an index, merged."""
    facts: dict[str, Any] = {}
    for line in read_lines(path):
        if line.get("what") == RUN:
            facts |= {key: value for key, value in line.items() if key not in ("what", "time")}
    return facts


def tables_of(device: str, directory: Path) -> list[Path]:
    """Return the run tables of a device, the oldest first."""
    paths = sorted(directory.glob("*/run*.jsonl"), key=lambda path: path.stat().st_mtime)
    return [path for path in paths if read_run(path).get("device", device) == device]

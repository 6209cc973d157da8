"""The run table: one file per run, a line per event in the life of its acquisitions, safe against a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import WireError
from ...files.daq_file import BSDATA, CAMERAS, PVDATA
from ...files.storage import append_line, make_folder
from ...wire.json_text import load_json

SENDING, ACCEPTED, COMPLETE, FAILED = "asking", "asked", "complete", "failed"
READ, REGISTERED, UNKNOWN, REFUSED, RUN = "read", "registered", "unknown", "refused", "run"
RETAKEN, NOT_ASKED = "retaken", "not asked"
"""What a line can say. ``asking`` is written before the request is sent, ``asked`` after its reply, and
``retaken`` if no event has it, as when the point was taken again or the event dropped; ``not asked`` is of
pulses of a fly scan that ended before they were asked for."""

Facts = dict[str, Any]
"""About one dataset of an acquisition."""

CHANNELS = (PVDATA, BSDATA, CAMERAS)
"""Sources of which one name may be missing without harm to the others."""


class TableRow(dict[str, Any]):
    """All that a table says of one acquisition; its ``state`` is the last that counts."""

    @property
    def pulses(self) -> range | list[int]:
        """Pulses that have a frame when none is lost."""
        asked = self.get("asked", {})
        return range(*asked["range"]) if "range" in asked else asked.get("ids", [])

    @property
    def arrays(self) -> list[Facts]:
        """Datasets that are there, by name: files come in any order."""
        return sorted(
            (one for one in self.get("found", ()) if "absent" not in one), key=lambda one: one["key"]
        )

    @property
    def is_gap_free(self) -> bool:
        """Whether every file holds every frame asked for, or may leave some out."""
        return all(found.get("n_got") == found.get("n_asked") or found["filtered"] for found in self.arrays)

    @property
    def is_good(self) -> bool:
        """Whether there is an event and data: those of all detectors at least."""
        if self["state"] not in (COMPLETE, FAILED) or not self["read"] or not self.is_gap_free:
            return False
        there = {one["source"] for one in self["found"]}
        wanted = {source for source in self.get("expected", there) if source not in CHANNELS}
        return wanted <= there and (self["state"] == COMPLETE or bool(self.arrays))


class RunTable:
    """Append-only record of one run; an existing file is continued."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        make_folder(self.path.parent)

    def write(self, what: str, index: int | None = None, **facts: Any) -> None:
        """Append a line: what happened to the acquisition of an index, or without one to the run."""
        line = {"what": what, "time": time.time(), **({} if index is None else {"index": index}), **facts}
        append_line(self.path, json.dumps(line))

    def rows(self) -> list[TableRow]:
        """Return the acquisitions in order."""
        rows: dict[int, TableRow] = {}
        for line in self._lines():
            if "index" not in line:
                continue
            row = rows.setdefault(line["index"], TableRow(read=False, registered=False))
            what = line.pop("what")
            if what in (READ, REGISTERED):
                row[what] = True
            elif what == RETAKEN:
                row[READ] = False
            else:
                row |= line
                row["state"] = what
        return [rows[index] for index in sorted(rows)]

    def run_facts(self) -> dict[str, Any]:
        """Return what is known of the run as a whole: the lines about it, merged."""
        facts: dict[str, Any] = {}
        for line in self._lines():
            if line.get("what") == RUN:
                facts |= {key: value for key, value in line.items() if key not in ("what", "time")}
        return facts

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines; one cut off by a crash is left out."""
        with self.path.open() as file:
            for text in file:
                try:
                    line = load_json(text)
                except WireError:
                    continue
                if isinstance(line, dict):
                    yield line


def tables_of(device: str, directory: Path) -> list[RunTable]:
    """Return the run tables of the device with this name, the oldest first."""
    paths = sorted(directory.glob("*/run*.jsonl"), key=lambda path: path.stat().st_mtime)
    return [table for table in map(RunTable, paths) if table.run_facts().get("device", device) == device]

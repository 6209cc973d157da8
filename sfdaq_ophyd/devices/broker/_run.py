"""One run with its number: what is asked for, the axes it moves, what was accepted, and the table of it all.

The run table is one file per run, a line per event in the life of its acquisitions, safe against a crash.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from ...errors import RequestError, WireError
from ...files.daq_file import BSDATA, CAMERAS, PVDATA
from ...files.storage import append_line, make_folder
from ...wire.broker_reply import Retrieval
from ...wire.broker_request import RetrieveRequest
from ...wire.json_text import load_json
from ...wire.pulse_id import PulseRange, check_rate_multiplicator, check_whole
from ._scan_info import Axis, Point, axes_of, scan_info

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
    def frameless(self) -> dict[str, str]:
        """Detectors that have no frame, as none passed the filters, and why."""
        return {
            one["source"]: one["absent"]
            for one in self.get("found", ())
            if "absent" in one and one["source"] not in CHANNELS
        }

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


# what is asked for

INTEGERS = (
    "run_number",
    "acquisition_number",
    "unique_acquisition_number",
    "start_pulse_id",
    "stop_pulse_id",
)
"""Keys of an acquisition that are whole numbers."""


class PulseSource(Protocol):
    """What tells the pulse of the moment: a `PulseId`, which is never computed."""

    def get(self) -> int:
        """Return the pulse id of this moment."""

    def check(self, timeout: float | None = None, n_pulses: int = 10) -> float:
        """Return its rate, Hz."""

    def wait_past(self, pulse_id: int) -> Any:
        """Return a status of the wait for a pulse after `pulse_id`."""


@dataclass(frozen=True)
class Settings:
    """What is asked for with every acquisition: the values of the device's signals."""

    pgroup: str
    n_pulses: int
    rate_multiplicator: int
    detectors: Mapping[str, Mapping[str, Any]]
    channels: Sequence[str]
    cameras: Sequence[str]
    pvs: Sequence[str]
    user_tag: str
    append_user_tag: bool
    tolerate_missing: bool
    tolerate_missing_channels: bool
    file_timeout: float
    max_pedestal_age: float
    timeout: float

    def request(self, pulses: PulseRange, **more: Any) -> RetrieveRequest:
        """Return the request for pulses, with `more` of its fields; RequestError names a wrong setting."""
        return RetrieveRequest(
            pgroup=self.pgroup,
            pulses=pulses,
            rate_multiplicator=self.rate_multiplicator,
            detectors=self.detectors,
            channels=self.channels,
            cameras=self.cameras,
            pvs=self.pvs,
            user_tag=self.user_tag or None,
            append_user_tag_to_data_dir=bool(self.user_tag) and bool(self.append_user_tag),
            **more,
        )

    def check(self, name: str) -> RetrieveRequest:
        """Return a request with made-up pulses; RequestError names the device's signal that is wrong."""
        rate = check_rate_multiplicator(self.rate_multiplicator)
        n_pulses = check_whole(self.n_pulses, f"{name}.n_pulses")
        for limit in ("file_timeout", "timeout"):
            seconds = getattr(self, limit)
            if not isinstance(seconds, Real) or not 0 < float(seconds) < float("inf"):
                raise RequestError(f"{name}.{limit}", seconds, "a number of s above 0")
        try:
            return self.request(PulseRange.next_frames(0, n_pulses, rate))
        except RequestError as exc:
            raise RequestError(f"{name}.{exc.field}", exc.value, exc.expected) from exc

    def tolerates(self, source: str) -> bool:
        """Say of a source whether its file may lack frames, or channels."""
        return bool(self.tolerate_missing_channels if source in CHANNELS else self.tolerate_missing)


def request_labels(run_uid: str = "", **more: Any) -> dict[str, Any]:
    """Return the fields of a request that only say whose it is; each time with a new request id."""
    uid = {"bluesky_run_uid": run_uid} if run_uid else {}
    return {"client_name": "sfdaq_ophyd", "client_request_id": str(uuid.uuid4()), **uid, **more}


@dataclass
class BrokerRun:
    """One run number in use.

    Attributes
    ----------
    uid : str
        Of Bluesky's run; empty where it is not known.
    axes : tuple of Axis, or None
        What the run moves, frozen with its first acquisition.
    new : bool
        The number was given out for this run, so there can be no data of it yet.
    """

    number: int
    pgroup: str
    table: RunTable
    uid: str = ""
    axes: tuple[Axis, ...] | None = None
    n_acquisitions: int = 0
    new: bool = True

    def next_index(self) -> int:
        """Return the index of one more acquisition, from 0."""
        self.n_acquisitions += 1
        return self.n_acquisitions - 1

    def scan_info(self, point: Point | None) -> dict[str, Any] | None:
        """Return what goes into ``meta/scan.json`` for a point of a scan."""
        if point is None:
            return None
        if self.axes is None:
            self.axes = axes_of(point)
        return scan_info(point, self.axes)


@dataclass(frozen=True)
class AcceptedAcquisition:
    """An acquisition that the broker has accepted; its files come later."""

    index: int
    run: BrokerRun
    pulses: PulseRange
    retrieval: Retrieval
    time: float = field(default_factory=time.time)

    @property
    def values(self) -> dict[str, Any]:
        """What goes into the event."""
        return {
            "run_number": self.retrieval.run_number,
            "acquisition_number": self.retrieval.acquisition_number,
            "unique_acquisition_number": self.retrieval.unique_acquisition_number,
            "start_pulse_id": self.pulses.first,
            "stop_pulse_id": self.pulses.last,
            "files": list(self.retrieval.files),
        }

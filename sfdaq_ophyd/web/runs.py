"""The run that goes on and the runs that are over: read beside the session, which is another process.

Of a catalog of our own, the folder is read: its SQLite file without writing, and the documents of open runs,
which the session writes there line by line. A remote catalog is asked through its Tiled client.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .source import Source

if TYPE_CHECKING:
    from tiled.client.container import Container


logger = logging.getLogger(__name__)


LATE_AFTER = 10.0
"""s after which the next point is late, at least; else twice the time between the last two."""

MOST_SIGNALS = 8
MOST_POINTS = 20_000
"""Of a longer run, the first ones are kept; `is_cut` tells."""


class Curve:
    """Take the documents of a run as they come.

    Without a motor, or with several (a grid), points are numbered; a `count` is shown against time, in s
    since its start. A signal that is missing in a point, or not a number, is None there.

    Attributes
    ----------
    x_name : str
        The motor, "time" or "point".
    x, ys : list of float, dict of str to list of float or None
        By signal, as long as `x`.
    newest : float or None
        When the newest point was taken, s since the epoch: its event's time.
    late_after : float
        s after `newest` by which the next one is late.
    """

    def __init__(self, start: Mapping[str, Any]):
        self.uid = str(start.get("uid", ""))
        self.scan_id, self.plan_name = start.get("scan_id"), str(start.get("plan_name", ""))
        self.is_over = self.is_cut = False
        self.x: list[float] = []
        self.ys: dict[str, list[float | None]] = {}
        self._start_time = start.get("time") or 0.0
        self.newest: float | None = None
        self.late_after = LATE_AFTER
        self._descriptors: dict[str, list[str]] = {}
        dimensions = [d for d in _list(start.get("hints"), "dimensions") if len(d) == 2 and d[1] == "primary"]
        self.x_name = str(dimensions[0][0][0]) if len(dimensions) == 1 and dimensions[0][0] else "point"

    def take(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document of the run, after its start."""
        if name == "descriptor" and doc.get("name") == "primary":
            self._describe(doc)
        elif name == "event" and doc["descriptor"] in self._descriptors:
            self._add(doc["data"], doc["time"], self._descriptors[doc["descriptor"]])
        elif name == "event_page" and doc["descriptor"] in self._descriptors:
            for i, time in enumerate(doc["time"]):
                row = {key: values[i] for key, values in doc["data"].items()}
                self._add(row, time, self._descriptors[doc["descriptor"]])
        elif name == "stop":
            self.is_over = True

    def message(self, first: int) -> dict[str, Any]:
        """Return the points from number `first` on; ready for JSON."""
        n = len(self.x)
        return {
            "uid": self.uid,
            "time": self._start_time,
            "scan_id": self.scan_id,
            "plan_name": self.plan_name,
            "is_cut": self.is_cut,
            "newest": self.newest,
            "x_name": self.x_name,
            "first": first,
            "x": self.x[first:n],
            "ys": {name: values[first:n] for name, values in self.ys.items()},
        }

    def _describe(self, doc: Mapping[str, Any]) -> None:
        keys, hints = doc.get("data_keys", {}), doc.get("hints") or {}
        hinted = [field for hint in hints.values() for field in _list(hint, "fields")]
        numbers = [
            field
            for field in dict.fromkeys(hinted)
            if field != self.x_name
            and keys.get(field, {}).get("dtype") in ("number", "integer")
            and "external" not in keys[field]
        ]
        self._descriptors[doc["uid"]] = numbers
        for field in numbers[: MOST_SIGNALS - len(self.ys)]:
            self.ys.setdefault(field, [None] * len(self.x))

    def _add(self, data: Mapping[str, Any], time: float, fields: list[str]) -> None:
        if self.newest is not None:
            self.late_after = max(LATE_AFTER, 2 * (time - self.newest))
        self.newest = time
        if len(self.x) >= MOST_POINTS:
            self.is_cut = True
            return
        if self.x_name == "time":
            x: float | None = time - self._start_time
        elif self.x_name == "point":
            x = len(self.x) + 1
        else:
            x = _number(data.get(self.x_name))
        if x is None:
            return  # a point without its place is nowhere
        for field, values in self.ys.items():
            values.append(_number(data.get(field)) if field in fields else None)
        self.x.append(x)  # last: what is counted has all its values


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _list(holder: object, key: str) -> list:
    found = holder.get(key) if isinstance(holder, Mapping) else None
    return list(found) if isinstance(found, list | tuple) else []


N_RUNS = 8
N_CURVES = 6
"""Scans whose points are kept, the running ones among them."""


class RunsSource(Source):
    """A catalog that is looked at; `curves` are of the scans that go on and the last ones, newest first."""

    group = "runs"

    def __init__(self, address: str, period: float):
        super().__init__("catalog", "catalog", address, period)
        self.curves: list[Curve] = []


class FolderRuns(RunsSource):
    """Watch the catalog in a folder of `embedded_catalog`, which may not exist yet."""

    def __init__(self, directory: Path):
        super().__init__(str(directory), 0.5)
        self._directory = Path(directory)
        self._tails: dict[Path, Tail] = {}
        self._known: dict[str, Curve | None] = {}

    def look(self) -> dict[str, Any]:
        """Read what changed."""
        return {"open": self._open_runs(), "last": self._last_runs()}

    def rest(self) -> None:
        """Close the files of open runs."""
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()

    def _open_runs(self) -> list[dict[str, Any]]:
        paths = sorted(self._directory.glob("documents/*.jsonl"), key=_changed, reverse=True)[:3]
        for gone in set(self._tails) - set(paths):  # in the catalog by now; its file can still be read
            tail = self._tails.pop(gone)
            tail.read()
            tail.close()
            self._keep(tail.curve)
        self._tails = {path: self._tails.get(path) or Tail(path) for path in paths}
        found = [tail.read() for tail in self._tails.values()]
        for tail in reversed(self._tails.values()):
            self._keep(tail.curve)
        return [run for run in found if run is not None and "exit_status" not in run]

    def _keep(self, curve: Curve | None) -> None:
        if curve is not None:
            self.curves = _newest_first([curve], self.curves)

    def _last_runs(self) -> list[dict[str, Any]]:
        path = self._directory / "catalog.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)) as database:
            rows = database.execute(
                "select metadata from nodes where parent = 0 order by id desc limit ?", (N_RUNS,)
            ).fetchall()
        runs = [json.loads(metadata) for (metadata,) in rows]
        self._know(str((run.get("start") or {}).get("uid", "")) for run in runs[:N_CURVES])
        return [run_line(run) for run in runs]

    def _know(self, uids: Iterable[str]) -> None:
        """Read the points of runs that were over before the page looked, each once."""
        from ..catalog.journal import Journal

        journal = Journal(self._directory / "documents")
        followed = {curve.uid for curve in self.curves}
        before, self._known = self._known, {}
        for uid in uids:
            if uid in before:
                self._known[uid] = before[uid]
            elif uid not in followed and (path := journal.find(uid)) and path.suffix == ".gz":  # it is over
                self._known[uid] = _curve_from(journal.read(path), path)
        self.curves = _newest_first(self.curves, [curve for curve in self._known.values() if curve])


class RemoteRuns(RunsSource):
    """Watch a Tiled catalog."""

    def __init__(self, uri: str, api_key: Callable[[], str]):
        super().__init__(uri, 2.0)
        self._key = api_key
        self._client: Container | None = None

    def look(self) -> dict[str, Any]:
        """Ask for the newest runs."""
        if self._client is None:
            from tiled.client import from_uri

            self._client = from_uri(self.address, api_key=self._key())
        newest = self._client.sort(("start.time", -1)).values().head(N_RUNS)
        over = {curve.uid for curve in self.curves if curve.is_over}
        unknown = [run for run in newest[:N_CURVES] if run.metadata["start"]["uid"] not in over]
        self.curves = _newest_first(filter(None, map(_curve_of, unknown)), self.curves)
        lines = [run_line(run.metadata) for run in newest]
        of_newest = [curve for curve in self.curves if lines and curve.uid.startswith(lines[0]["uid"])]
        if of_newest and not of_newest[0].is_over:
            lines[0] |= _newest_point(of_newest[0]) | {"n_events": {"primary": len(of_newest[0].x)}}
        return {"open": [line for line in lines[:1] if "exit_status" not in line], "last": lines}

    def rest(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.context.close()
        self._client = None


class Tail:
    """The documents of one open run, read as they are written: JSON lines, each with ``name`` and ``doc``."""

    def __init__(self, path: Path):
        self._path, self._offset = path, 0
        self._file: BinaryIO | None = None
        self._run: dict[str, Any] | None = None
        self.curve: Curve | None = None
        self._streams: dict[str, str] = {}

    def close(self) -> None:
        """Close the file. Safe twice."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def read(self) -> dict[str, Any] | None:
        """Return the run with its progress; None without a start document, or if the file is gone.

        What was written before the file went is read nevertheless.
        """
        try:
            file = self._file = self._file or open(self._path, "rb")
        except FileNotFoundError:
            return None
        is_there = self._path.exists()
        file.seek(self._offset)
        for line in file.readlines():
            if not line.endswith(b"\n"):
                break
            self._offset += len(line)
            record = json.loads(line)
            self._take(record["name"], record["doc"])
        if self._run is not None and self.curve is not None:
            self._run |= _newest_point(self.curve)
        return self._run if is_there else None

    def _take(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "start":
            self._run = {**run_line({"start": doc}), "n_events": {}}
            self.curve = Curve(doc)
        elif self._run is None:
            return
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc.get("name", "primary")
        elif name in ("event", "event_page"):
            stream = self._streams.get(doc.get("descriptor", ""), "primary")
            n = 1 if name == "event" else len(doc["time"])
            self._run["n_events"][stream] = self._run["n_events"].get(stream, 0) + n
        elif name == "stop":
            self._run["exit_status"] = doc.get("exit_status")
        if self.curve is not None:
            self.curve.take(name, doc)


def _newest_point(curve: Curve) -> dict[str, Any]:
    return {"newest": curve.newest, "late_after": curve.late_after}


def _newest_first(new: Iterable[Curve], old: list[Curve]) -> list[Curve]:
    found = list(new)
    uids = {curve.uid for curve in found}
    return (found + [curve for curve in old if curve.uid not in uids])[:N_CURVES]


def _curve_from(documents: Iterable[tuple[str, Mapping[str, Any]]], path: Path) -> Curve | None:
    """Take the documents of one run; None, or the points so far, if they cannot be read."""
    curve = None
    try:
        for name, doc in documents:
            if name == "start":
                curve = Curve(doc)
            elif curve is not None and not curve.is_cut:
                curve.take(name, doc)
    except Exception as exc:  # one run that cannot be read hides no other
        logger.debug("documents in %s: %r", path, exc)
    return curve


def _curve_of(run) -> Curve | None:
    """Read the points of a run out of a catalog; None of one without a primary stream."""
    if "primary" not in list(run):
        return None
    curve, stream = Curve(run.metadata["start"]), run["primary"]
    curve.take("descriptor", {**stream.metadata, "uid": "primary", "name": "primary"})
    names = [name for name in (curve.x_name, *curve.ys) if name in stream.metadata["data_keys"]]
    try:
        values = stream.read(variables=[*names, "time"])
    except Exception as exc:  # one run that cannot be read hides no other
        logger.debug("points of run %s: %r", curve.uid, exc)
    else:
        data = {name: values[name].values.tolist() for name in names}
        page = {"descriptor": "primary", "time": values["time"].values.tolist(), "data": data}
        curve.take("event_page", page)
    if run.metadata.get("stop"):
        curve.take("stop", {})
    return curve


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # the run was just brought into the catalog


def run_line(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page says of a run, from its start and stop documents."""
    start, stop = metadata.get("start") or {}, metadata.get("stop") or {}
    line = {
        "uid": str(start.get("uid", ""))[:8],
        "scan_id": start.get("scan_id"),
        "plan_name": start.get("plan_name", ""),
        "time": start.get("time"),
        "detectors": list(start.get("detectors") or []),
        "motors": list(start.get("motors") or []),
    }
    if stop:
        line |= {"exit_status": stop.get("exit_status", ""), "reason": str(stop.get("reason") or "")[:300]}
        line |= {"seconds": round(stop.get("time", 0) - start.get("time", 0), 1)}
        line |= {"n_events": stop.get("num_events") or {}}
    else:
        line |= {"n_points": start.get("num_points")}
    return line

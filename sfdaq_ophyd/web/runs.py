"""The run that goes on and the runs that are over: read beside the session, which is another process.

Of a catalog of our own, the folder is read: its SQLite file without writing, and the documents of open runs,
which the session writes there line by line. A remote catalog is asked through its Tiled client.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .source import Source

N_RUNS = 8


class FolderRuns(Source):
    """Watch the catalog in a folder.

    Parameters
    ----------
    directory : Path
        Of `embedded_catalog`; may not exist yet.
    """

    group = "runs"

    def __init__(self, directory: Path, period: float = 0.5):
        super().__init__("catalog", "catalog", str(directory), period)
        self._directory = Path(directory)
        self._tails: dict[Path, Tail] = {}

    def look(self) -> dict[str, Any]:
        """Read what changed."""
        return {"open": self._open_runs(), "last": self._last_runs()}

    def rest(self) -> None:
        """Forget what was read of open runs."""
        self._tails.clear()

    def _open_runs(self) -> list[dict[str, Any]]:
        paths = sorted(self._directory.glob("documents/*.jsonl"), key=os.path.getmtime, reverse=True)[:3]
        self._tails = {path: self._tails.get(path) or Tail(path) for path in paths}
        found = [tail.read() for tail in self._tails.values()]
        return [run for run in found if run is not None and "exit_status" not in run]

    def _last_runs(self) -> list[dict[str, Any]]:
        path = self._directory / "catalog.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)) as database:
            rows = database.execute(
                "select metadata from nodes where parent = 0 order by id desc limit ?", (N_RUNS,)
            ).fetchall()
        return [run_line(json.loads(metadata)) for (metadata,) in rows]


class RemoteRuns(Source):
    """Watch a Tiled catalog.

    Parameters
    ----------
    uri : str
    api_key_variable : str
        Environment variable with the key.
    """

    group = "runs"

    def __init__(self, uri: str, api_key_variable: str, period: float = 2.0):
        super().__init__("catalog", "catalog", uri, period)
        self._variable, self._client = api_key_variable, None

    def look(self) -> dict[str, Any]:
        """Ask for the newest runs."""
        if self._client is None:
            from tiled.client import from_uri

            key = os.environ.get(self._variable)
            if not key:
                raise ConfigError(f"set the environment variable {self._variable} to the catalog's API key")
            self._client = from_uri(self.address, api_key=key)
        newest = self._client.sort(("start.time", -1)).values().head(N_RUNS)
        lines = [run_line(run.metadata) for run in newest]
        return {"open": [line for line in lines[:1] if "exit_status" not in line], "last": lines}

    def rest(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.context.close()
        self._client = None


class Tail:
    """The documents of one open run, read as they are written.

    Parameters
    ----------
    path : Path
        JSON lines, each with ``name`` and ``doc``.
    """

    def __init__(self, path: Path):
        self._path, self._offset = path, 0
        self._run: dict[str, Any] | None = None
        self._streams: dict[str, str] = {}

    def read(self) -> dict[str, Any] | None:
        """Return the run with its progress; None without a start document, or if the file is gone."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                lines = file.readlines()
        except FileNotFoundError:
            return None
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._offset += len(line)
            record = json.loads(line)
            self._take(record["name"], record["doc"])
        return self._run

    def _take(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "start":
            self._run = {**run_line({"start": doc}), "n_events": {}, "n_points": doc.get("num_points")}
        elif self._run is None:
            return
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc.get("name", "primary")
        elif name in ("event", "event_page"):
            self._count(doc, 1 if name == "event" else len(doc["time"]))
        elif name == "stop":
            self._run["exit_status"] = doc.get("exit_status")

    def _count(self, doc: Mapping[str, Any], n: int) -> None:
        stream = self._streams.get(doc.get("descriptor", ""), "primary")
        self._run["n_events"][stream] = self._run["n_events"].get(stream, 0) + n


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
    return line

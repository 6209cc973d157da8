"""Documents of runs on disk until the catalog has them: one file of JSON lines per run."""

from __future__ import annotations

import datetime
import enum
import json
import logging
import pathlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)


class Journal:
    """Write documents as they come, drop a run's file once the run is in the catalog.

    A file left behind belongs to a run the catalog does not hold whole: the server failed, or this
    process was killed. What was written can be read up to the last whole line.

    Parameters
    ----------
    directory : Path
        Made if missing.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, object] = {}
        self._broken: set[str] = set()
        self._lock = threading.Lock()

    def path(self, uid: str) -> Path:
        """File of the run `uid`."""
        return self.directory / f"{re.sub(r'[^A-Za-z0-9_-]', '_', uid)}.jsonl"

    def write(self, uid: str, name: str, doc: dict) -> bool:
        """Append a document; False, and one log record per run, if that cannot be done."""
        with self._lock:
            if uid in self._broken:
                return False
            try:
                line = json.dumps({"name": name, "doc": doc}, default=_plain) + "\n"
                file = self._open.get(uid)
                if file is None:
                    mode = "w" if name == "start" else "a"
                    file = self._open[uid] = open(self.path(uid), mode, buffering=1, encoding="utf-8")
                file.write(line)
            except (OSError, TypeError, ValueError) as exc:
                self._broken.add(uid)
                logger.error("documents of run %s are not backed up from %s on: %s", uid, name, exc)
                return False
            if name == "stop":
                self._open.pop(uid).close()
            return True

    def broken(self, uid: str) -> bool:
        """Tell whether some documents of this run could not be written."""
        return uid in self._broken

    def drop(self, uid: str) -> None:
        """Remove the file of a run; the catalog holds it."""
        self.close(uid)
        self.path(uid).unlink(missing_ok=True)
        self._broken.discard(uid)

    def close(self, uid: str | None = None) -> None:
        """Close the file of a run, or all files; they stay on disk."""
        with self._lock:
            for key in [uid] if uid is not None else list(self._open):
                if (file := self._open.pop(key, None)) is not None:
                    file.close()

    def waiting(self, *, but: set[str] = frozenset()) -> dict[str, Path]:
        """Files left behind by run uid, oldest run first; runs in `but` are left out."""
        found = []
        for path in self.directory.glob("*.jsonl"):
            first = next(self.read(path), None)
            if first is not None and first[1]["uid"] not in but:
                found.append((first[1].get("time", 0.0), first[1]["uid"], path))
        return {uid: path for _, uid, path in sorted(found)}

    @staticmethod
    def read(path: Path) -> Iterator[tuple[str, dict]]:
        """Yield (name, document) up to the last whole line; nothing if the first is not a start."""
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file):
                try:
                    record = json.loads(line)
                    name, doc = record["name"], record["doc"]
                    if number == 0 and (name != "start" or not isinstance(doc["uid"], str)):
                        raise ValueError("the first document is not a start")
                except (ValueError, KeyError, TypeError) as exc:
                    logger.warning("%s: line %d cannot be read (%s); the rest is left out", path, number, exc)
                    return
                yield name, doc


def _plain(value: object):
    """Turn what documents hold beside JSON's own types into these."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, pathlib.PurePath | datetime.date | datetime.time):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")

"""Documents of runs on disk until the catalog has them: one file of JSON lines per run."""

from __future__ import annotations

import datetime
import enum
import gzip
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path, PurePath
from typing import IO

import numpy as np

logger = logging.getLogger(__name__)

FILE = "file://localhost"

MOST_KEPT = 10 * 2**30
"""Bytes below ``kept``; beyond them the oldest go, whose runs the catalog still holds."""


class Journal:
    """Write documents as they come; once the run is in the catalog, its file is packed away, below ``kept``.

    A file left in `directory` itself belongs to a run the catalog does not hold whole: the server failed, or
    this process was killed. What was written can be read up to the last whole line.

    Parameters
    ----------
    directory : Path
        Made if missing.
    now_at : callable, optional
        Returns where the file of a URI is today; see `read`.
    most_kept : int
        Bytes of all packed files together.
    """

    def __init__(
        self,
        directory: Path,
        now_at: Callable[[str], str] = str,
        most_kept: int = MOST_KEPT,
    ):
        self.directory, self._now_at, self._most_kept = directory, now_at, most_kept
        directory.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, IO[str]] = {}
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
                line = _line(name, doc)
                if uid not in self._open:
                    mode = "w" if name == "start" else "a"
                    self._open[uid] = open(self.path(uid), mode, buffering=1, encoding="utf-8")
                self._open[uid].write(line)
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

    def find(self, uid: str) -> Path | None:
        """Return the file with the documents of a run, for `read`; None if there is none."""
        return next((path for path in (self._kept(uid), self.path(uid)) if path.exists()), None)

    def keep(self, uid: str) -> None:
        """Pack the file of a run away; the catalog holds the run. One that lacks documents is removed."""
        self.close(uid)
        path = self.path(uid)
        if uid in self._broken:
            self._broken.discard(uid)
        else:
            try:
                with open(path, "rb") as lines:
                    self._pack(uid, lines)
            except OSError as exc:
                logger.warning("documents of run %s are not kept beside the catalog: %s", uid, exc)
        path.unlink(missing_ok=True)

    def extend(self, uid: str, documents: Sequence[tuple[str, dict]]) -> None:
        """Put documents that came late in front of the stop document."""
        if not (kept := self._kept(uid)).exists():
            return

        def lines() -> Iterator[bytes]:
            with gzip.open(kept, "rb") as before:
                last = next(before)
                for line in before:
                    yield last
                    last = line
            yield from (_line(name, doc).encode() for name, doc in documents)
            yield last

        self._pack(uid, lines())

    def _kept(self, uid: str) -> Path:
        return self.directory / "kept" / f"{self.path(uid).name}.gz"

    def _pack(self, uid: str, lines: Iterable[bytes]) -> None:
        kept = self._kept(uid)
        kept.parent.mkdir(exist_ok=True)
        new = kept.with_suffix(".new")
        with gzip.open(new, "wb", compresslevel=1) as file:
            file.writelines(lines)
        new.replace(kept)
        packed = [(entry.stat(), entry.path) for entry in os.scandir(kept.parent)]
        excess = sum(stat.st_size for stat, _ in packed) - self._most_kept
        for stat, path in sorted(packed, key=lambda each: each[0].st_mtime_ns):
            if excess <= 0:
                break
            logger.info("%s: documents of an old run go, the catalog holds the run", path)
            os.unlink(path)
            excess -= stat.st_size

    def close(self, uid: str | None = None) -> None:
        """Close the file of a run, or all files; they stay on disk."""
        with self._lock:
            for key in [uid] if uid is not None else list(self._open):
                if (file := self._open.pop(key, None)) is not None:
                    file.close()

    def waiting(self, *, but: Set[str] = frozenset()) -> dict[str, Path]:
        """Files left behind by run uid, oldest run first; runs in `but` are left out."""
        found = []
        for path in self.directory.glob("*.jsonl"):
            first = next(self.read(path), None)
            if first is not None and first[1]["uid"] not in but:
                found.append((first[1].get("time", 0.0), first[1]["uid"], path))
        return {uid: path for _, uid, path in sorted(found)}

    def read(self, path: Path) -> Iterator[tuple[str, dict]]:
        """Yield (name, document) up to the last whole line; nothing if the first is not a start.

        Files that were moved with the catalog since are named where they are now.
        """
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file):
                try:
                    record = json.loads(line)
                    name, doc = record["name"], record["doc"]
                    if number == 0 and (name != "start" or not isinstance(doc["uid"], str)):
                        raise ValueError("the first document is not a start")
                except (ValueError, KeyError, TypeError) as exc:
                    logger.warning("%s: line %d cannot be read (%s); the rest is left out", path, number, exc)
                    return
                yield name, self._located(doc) if name in ("resource", "stream_resource") else doc

    def _located(self, resource: dict) -> dict:
        before = resource.get("uri") or FILE + os.path.join(
            "/", resource.get("root", ""), resource.get("resource_path", "")
        )
        if (now := self._now_at(before)) == before:
            return resource
        if "uri" in resource:
            return {**resource, "uri": now}
        return {**resource, "root": "/", "resource_path": now.removeprefix(FILE).lstrip("/")}


def _line(name: str, doc: dict) -> str:
    return json.dumps({"name": name, "doc": doc}, default=plain) + "\n"


def plain(value: object):
    """Turn what documents hold beside JSON's own types into these."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, PurePath | datetime.date | datetime.time):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")

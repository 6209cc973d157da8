"""From the RunEngine to the catalog: a journal on disk, a queue, and a thread that writes in batches."""

from __future__ import annotations

import contextlib
import datetime
import enum
import fcntl
import gzip
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

from ..errors import ServiceTimeout
from ..limits import Limit
from ..wire.json_text import plain_array

if TYPE_CHECKING:  # tiled is imported when a catalog is opened
    from ._writer import RunWriter


logger = logging.getLogger(__name__)


FILE = "file://localhost"

MOST_KEPT = 10 * 2**30
"""Bytes below ``kept``; beyond them the oldest go, whose runs the catalog still holds."""


class Journal:
    """Write documents as they come; once the run is in the catalog, its file is packed away, below ``kept``.

    A file left in `directory` itself belongs to a run the catalog does not hold whole: the server failed, or
    this process was killed. What was written can be read up to the last whole line. The file of a run that
    goes on is locked, so that other processes on the same directory leave it alone.
    An empty file ``.broken`` beside it says that documents could not be written: the catalog may have more.
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
        self._held: dict[str, int] = {}  # file descriptors with a lock, until the run is done with
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
                    if name == "start":
                        self._mark(uid).unlink(missing_ok=True)
                    mode = "w" if name == "start" else "a"
                    self._open[uid] = open(self.path(uid), mode, buffering=1, encoding="utf-8")
                    self._hold(uid)
                self._open[uid].write(line)
                if name == "stop":
                    self._open.pop(uid).close()
            except (OSError, TypeError, ValueError) as exc:
                self._break(uid)
                logger.error("documents of run %s are not backed up from %s on: %s", uid, name, exc)
                return False
            return True

    def _hold(self, uid: str) -> None:
        """Lock the file of a run before its first line, as far as its file system has locks."""
        if uid not in self._held:
            with contextlib.suppress(OSError):
                self._held[uid] = os.open(self.path(uid), os.O_RDWR)
                fcntl.flock(self._held[uid], fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(self, uid: str) -> None:
        if (held := self._held.pop(uid, None)) is not None:
            os.close(held)

    def _is_of_others(self, uid: str, path: Path) -> bool:
        """Tell whether another process is at this file, or has just put it away."""
        if uid in self._held:
            return False
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            return True
        except OSError:
            pass  # no locks here
        return False

    @contextlib.contextmanager
    def taken(self, uid: str, path: Path) -> Iterator[bool]:
        """Keep other processes from a file that waits; False if one of them is at it, or put it away."""
        with contextlib.ExitStack() as stack:
            is_ours = True
            if uid not in self._held:
                try:
                    file = stack.enter_context(open(path, "r+b"))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_ours = path.exists()
                except (BlockingIOError, FileNotFoundError):
                    is_ours = False
                except OSError as exc:
                    logger.info("%s cannot be locked: %s", path, exc)
            yield is_ours

    def _break(self, uid: str) -> None:
        """Note that the file of a run breaks off: in this process, and for those after it."""
        self._broken.add(uid)
        with contextlib.suppress(OSError):
            self._mark(uid).touch()
        if (file := self._open.pop(uid, None)) is not None:
            with contextlib.suppress(OSError):
                file.close()  # what it holds cannot be written

    def _mark(self, uid: str) -> Path:
        return self.directory / f"{self.path(uid).stem}.broken"

    def broken(self, uid: str) -> bool:
        """Tell whether some documents of this run could not be written."""
        return uid in self._broken or self._mark(uid).exists()

    def find(self, uid: str) -> Path | None:
        """Return the file with the documents of a run, for `read`; None if there is none."""
        return next((path for path in (self._kept(uid), self.path(uid)) if path.exists()), None)

    def keep(self, uid: str) -> None:
        """Pack the file of a run away; the catalog holds the run. One that lacks documents is removed."""
        self._close_file(uid)
        if not self.broken(uid):
            try:
                with open(self.path(uid), "rb") as lines:
                    self._pack(uid, lines)
            except OSError as exc:
                logger.warning("documents of run %s are not kept beside the catalog: %s", uid, exc)
        self.discard(uid)

    def discard(self, uid: str) -> None:
        """Remove the file of a run; the catalog holds the run."""
        self._close_file(uid)
        self._broken.discard(uid)
        try:
            for path in (self.path(uid), self._mark(uid)):
                path.unlink(missing_ok=True)
        except OSError as exc:
            logger.warning("documents of run %s cannot be removed: %s", uid, exc)
        self.close(uid)

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
        """Close the file of a run, or all files; they stay on disk, and other processes may have them."""
        for key in [uid] if uid is not None else [*self._open, *self._held]:
            self._close_file(key)
            with self._lock:
                self._release(key)

    def _close_file(self, uid: str) -> None:
        with self._lock:
            if (file := self._open.pop(uid, None)) is None:
                return
            try:
                file.close()
            except OSError as exc:
                self._break(uid)
                logger.error("not all documents of run %s are backed up: %s", uid, exc)

    def waiting(self, *, but: Set[str] = frozenset()) -> dict[str, Path]:
        """Files left behind by run uid, oldest run first; without runs in `but` and those others write."""
        found = []
        for path in self.directory.glob("*.jsonl"):
            try:
                first = next(self.read(path), None)
            except FileNotFoundError:
                continue  # another process has just put it away
            if first is None or (uid := first[1]["uid"]) in but:
                continue
            if not self._is_of_others(uid, path):
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
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, PurePath | datetime.date | datetime.time):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset):
        return sorted(value)
    return plain_array(value, f"{type(value).__name__} cannot be written as JSON")


class Routes:
    """Follow documents of any number of open, interleaved runs and name the run of each.

    References of a run are forgotten at its stop document.
    """

    def __init__(self):
        self._parents: dict[str, str] = {}  # uid of a descriptor or resource -> uid of its run
        self._children: dict[str, list[str]] = {}

    def run_of(self, name: str, doc: dict) -> str:
        """Return the uid of the run; KeyError if the document refers to nothing seen before."""
        if name == "start":
            self._children[doc["uid"]] = []
            return doc["uid"]
        if name == "stop":
            for child in self._children.pop(doc["run_start"]):
                del self._parents[child]
            return doc["run_start"]
        if name in ("descriptor", "resource", "stream_resource"):
            run = doc["run_start"]
            self._children[run].append(doc["uid"])
            self._parents[doc["uid"]] = run
            return run
        return self._parents[doc["resource"] if name in ("datum", "datum_page") else doc["descriptor"]]


HINT = "The documents are on disk too; catalog.replay() brings in what the catalog lacks"


class CatalogCallback:
    """Callback for any number of RunEngines; costs them a line in the journal and a place in a queue.

    A run whose writing fails goes on in the journal alone; the failure is logged once, and other
    runs are not touched.

    Parameters
    ----------
    period : float
        At most this long, in s, from a document to the catalog, when the server keeps up.
    max_queued : int
        Documents waiting to be written; a run that finds the queue full goes on in the journal alone.
    max_batch : int
        Documents per batch.
    """

    def __init__(
        self,
        open_writer: Callable[[], RunWriter],
        journal: Journal,
        *,
        period: float = 0.25,
        max_queued: int = 100_000,
        max_batch: int = 5000,
    ):
        self._open_writer, self._journal = open_writer, journal
        self._period, self._max_batch = period, max_batch
        self._queue: queue.Queue[tuple[str, str, dict] | threading.Event] = queue.Queue(max_queued)
        self._routes = Routes()
        self._lock = threading.Lock()
        self._writers: dict[str, RunWriter] = {}  # of the thread
        self._lost: set[str] = set()
        self.open_runs: set[str] = set()
        self._closing = threading.Event()
        self._progress = 0
        self._thread = threading.Thread(target=self._work, name="catalog feed", daemon=True)
        self._thread.start()

    def __call__(self, name: str, doc: dict) -> None:
        """Take a document; never raises, never waits for the server."""
        with self._lock:
            try:
                uid = self._routes.run_of(name, doc)
            except KeyError as exc:
                logger.warning("%s document left out: it belongs to no open run (%s)", name, exc)
                return
            if name == "start":
                self.open_runs.add(uid)
            self._journal.write(uid, name, doc)
            try:
                self._queue.put_nowait((uid, name, doc))
            except queue.Full:
                self._lose(uid, f"{self._queue.maxsize} documents wait already")
                if name == "stop":
                    self._forget(uid)

    def went_on(self, *_: object) -> None:
        """Take note of progress: a document was written, or the server answered."""
        self._progress += 1

    def flush(self, timeout: float) -> None:
        """Wait until every document given so far is written or, its run having failed, in the journal.

        Raises
        ------
        ServiceTimeout
            Nothing more was written, and the server answered nothing, for `timeout` s.
        """
        written, queued = threading.Event(), False
        limit, progress = Limit(timeout), self._progress
        while not written.is_set():
            if progress != self._progress:
                progress = self._progress
                limit.restart()
            elif limit.reached():
                raise ServiceTimeout("catalog flush", timeout, f"{self._queue.qsize()} documents wait", HINT)
            if queued:
                limit.wait(written)
                continue
            with contextlib.suppress(queue.Full):
                self._queue.put(written, timeout=limit.step())
                queued = True

    def close(self, timeout: float) -> None:
        """Flush while that goes on, end the thread; what is left is in the journal. Safe twice."""
        if not self._thread.is_alive():
            return
        try:
            self.flush(timeout)
        except ServiceTimeout as exc:
            logger.warning("%s; they are in %s", exc, self._journal.directory)
        self._closing.set()
        try:
            self._queue.put_nowait(threading.Event())
        except queue.Full:
            pass  # the thread has work, and looks up after it
        self._thread.join(timeout)
        self._journal.close()

    def _work(self) -> None:
        written = 0.0
        while not self._closing.is_set():
            batch = self._gather(written + self._period)
            touched: dict[str, RunWriter] = {}
            for item in batch:
                if isinstance(item, tuple) and not self._closing.is_set():
                    self._write(*item, touched)
                    self.went_on()
            for uid, writer in touched.items():
                self._try(uid, writer.flush)
            written = time.monotonic()
            if isinstance(last := batch[-1], threading.Event):
                last.set()

    def _gather(self, until: float) -> list[tuple[str, str, dict] | threading.Event]:
        """Wait for a document, then take all that come until `until`; a stop or a flush ends the wait."""
        batch = [self._queue.get()]
        while len(batch) < self._max_batch:
            if isinstance(last := batch[-1], threading.Event) or last[1] == "stop":
                break
            try:
                batch.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                break
        return batch

    def _write(self, uid: str, name: str, doc: dict, touched: dict[str, RunWriter]) -> None:
        if name == "start":
            self._try(uid, lambda: self._writers.update({uid: self._open_writer()}))
        writer = self._writers.get(uid)
        if writer is not None and self._try(uid, lambda: writer(name, doc)):
            touched[uid] = writer
        if name == "stop":
            touched.pop(uid, None)
            if self._writers.pop(uid, None) is not None:
                try:
                    self._journal.keep(uid)
                except Exception:  # of a disk, or what lies on it: the runs after this one go on
                    logger.exception("documents of run %s are not kept beside the catalog", uid)
            self._forget(uid)

    def _try(self, uid: str, action: Callable[[], object]) -> bool:
        if uid not in self._lost:
            try:
                action()
                return True
            except Exception as exc:
                self._lose(uid, f"{type(exc).__name__}: {exc}")
        self._writers.pop(uid, None)
        return False

    def _lose(self, uid: str, why: str) -> None:
        if uid in self._lost:
            return
        self._lost.add(uid)
        if self._journal.broken(uid):
            logger.error("run %s cannot be written to the catalog or backed up: %s", uid, why)
        else:
            logger.error(
                "run %s cannot be written to the catalog: %s. The scan goes on, its documents are in %s; "
                "catalog.replay() brings them in",
                uid,
                why,
                self._journal.path(uid),
            )

    def _forget(self, uid: str) -> None:
        self._journal.close(uid)
        self._lost.discard(uid)
        self.open_runs.discard(uid)

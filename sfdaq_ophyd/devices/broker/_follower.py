"""Follow announced files in the background, until they are whole or will not come."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

from ...errors import FileFormatError
from ...files.daq_file import BSDATA, CAMERAS, PVDATA, TEXT, FoundData, Look, last_words, look_at, read_texts
from ...files.held_values import write_aligned, write_held
from ...limits import Limit, counted_time
from ...wire.broker_status import FileState, StatusBoard
from ._run import CHANNELS, COMPLETE, FAILED, RunTable, TableRow

logger = logging.getLogger(__name__)

PERIOD = 0.1
"""s between two looks."""

IDLE = 600.0
"""s without an awaited file after which the thread goes although nobody said that the run is over."""

PAUSE = 0.05
"""s for which files can wait while a request is sent."""

AT_ONCE = 64
"""Acquisitions looked at in one look: writers work in order, so the oldest come first."""


@dataclass
class Announced:
    """The files of one acquisition, a row of the run.

    Attributes
    ----------
    files : dict of str to Path
        Source (``PVDATA``, ``BSDATA``, ``CAMERAS``, a detector) to where the file will be on this machine.
    asked : range or list of int
        Pulses with a frame.
    timeout : float
        s until a file is given up that shows nothing new, while the writer brings none that was asked for
        before it either.
    aligned : Path
        Folder for aligned views.
    gaps : dict of str to bool
        Source to whether pulses without a frame are expected or tolerated.
    names : dict of str to sequence of str
        Source to what its file must hold: channels, cameras, PVs.
    on_done : callable
        Called once, with the data found (see `_facts_of_file`), and with failures by file.
    heard_as : dict of str to str
        Source to what the file is called on the status exchange.
    filtered : sequence of str
        Sources whose writer was told to filter, and whose files may lack frames: where no frame is left it
        makes no file.
    """

    index: int
    files: dict[str, Path]
    asked: range | list[int]
    timeout: float
    aligned: Path
    on_done: Callable[[list[dict[str, Any]], dict[str, str]], None]
    gaps: dict[str, bool] = field(default_factory=dict)
    names: dict[str, Sequence[str]] = field(default_factory=dict)
    heard_as: dict[str, str] = field(default_factory=dict)
    filtered: Sequence[str] = ()
    found: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)  # nothing new is seen, s of counted time

    def __post_init__(self):
        self.limits = {source: Limit(self.timeout) for source in self.files}


def announced(
    table: RunTable, row: TableRow, timeout: float, heard_as: Mapping[str, str] | None = None
) -> Announced:
    """Return the files of an acquisition as the table's row has them, to be followed and noted there."""

    def note(found: list[dict], failures: dict[str, str]) -> None:
        table.write(FAILED if failures else COMPLETE, row["index"], found=found, failures=failures)

    tolerated = [source for source, gap in row["gaps"].items() if gap]  # older tables do not tell the filters
    return Announced(
        row["index"],
        {source: Path(path) for source, path in row["expected"].items()},
        row.pulses,
        timeout,
        Path(row["aligned"]),
        note,
        row["gaps"],
        row.get("names", {}),
        dict(heard_as or {}),
        row.get("filtered", tolerated),
    )


class FileFollower:
    """One thread that looks at announced files; it goes once a run is over and its files are there.

    With a `board`, what the writers say on the status exchange counts too.
    """

    def __init__(self, name: str, board: StatusBoard | None = None):
        self._name, self._board = name, board
        self._pending: deque[Announced] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._told: set[tuple] = set()
        self._resumed, self._paused_until = threading.Event(), 0.0
        self._is_over = False

    def pause(self) -> None:
        """Open no file for a moment, until `resume`: opening one holds up every thread of the process."""
        self._paused_until = time.monotonic() + PAUSE
        self._resumed.clear()

    def resume(self) -> None:
        """Open files again."""
        self._resumed.set()

    def follow(self, announced: Announced) -> None:
        """Follow the files of one more acquisition."""
        if self._board is not None:
            self._board.watch(announced.heard_as.values())
        with self._changed:
            self._pending.append(announced)
            self._is_over = False
            self._changed.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=f"{self._name} files", daemon=True)
                thread.start()
                self._thread = thread

    def end_run(self) -> None:
        """Let the thread go once it has found what is awaited. Safe at any time, and twice."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def forget(self) -> None:
        """Follow nothing any more; the run tables tell what was pending. Safe at any time, and twice."""
        with self._changed:
            self._pending.clear()
        self.end_run()

    @property
    def n_pending(self) -> int:
        """Acquisitions whose files are still awaited."""
        return len(self._pending)

    @property
    def last_seen(self) -> str:
        """What is known of the oldest file that is awaited."""
        with self._changed:
            oldest = self._pending[0] if self._pending else None
            if oldest is None:
                return "all files are there"
            waiting = list(oldest.files.values())  # at once: the thread takes out those that are done
            return ", ".join(
                f"{path.name}: {oldest.seen.get(str(path), 'not looked at')}" for path in waiting
            )

    def _run(self) -> None:
        while batch := self._next():
            for announced in batch:
                self._resumed.wait(max(0.0, self._paused_until - time.monotonic()))
                self._look(announced)
                if not announced.files:
                    self._finish(announced)
            with self._changed:
                if self._pending:
                    self._changed.wait(PERIOD)

    def _next(self) -> list[Announced]:
        """Return what to look at, the oldest first; nothing when the thread shall go."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._is_over, IDLE)
            if not self._pending:
                self._thread = None
            return list(islice(self._pending, AT_ONCE))

    def _look(self, announced: Announced) -> None:
        for source, path in list(announced.files.items()):
            limit = announced.limits[source]
            try:
                look = self._look_at(announced, source, path)
                if look.seen != announced.seen.get(str(path)):
                    limit.restart()
                    announced.since[source] = counted_time()
                if look.found is not None:
                    rows = _facts_of_file(announced, source, path, look.found)
                    announced.found += rows
                    self._tell(announced, path, rows)
                    self._note_progress(announced, source)
                elif not look.failure and limit.reached():
                    said = last_words(path)
                    late = f"the time is up, nothing new for {limit.seconds:g} s"
                    look = Look(failure=f"{late}; {look.seen}; the writer's last words: {said}")
            except Exception as exc:  # a file system has many ways to fail; one file must not stop the rest
                logger.exception("%s: looking at %s failed", self._name, path)
                announced.failures[str(path)] = f"{type(exc).__name__}: {exc}"
                del announced.files[source]
                continue
            announced.seen[str(path)] = look.seen
            if look.failure:
                announced.failures[str(path)] = look.failure
            if look.failure or look.found is not None:
                del announced.files[source]

    def _tell(self, announced: Announced, path: Path, rows: list[dict[str, Any]]) -> None:
        """Warn of channels and frames that cannot be had, once per run."""
        for row in rows:
            what = announced.aligned, row["key"], row.get("absent")
            if row.get("absent") and what not in self._told:
                self._told.add(what)
                logger.warning("%s: %s: %s %s; the run goes on without", self._name, path, *what[1:])

    def _note_progress(self, announced: Announced, source: str) -> None:
        """Give the files asked for later their whole time: a writer does one request after the other."""
        with self._changed:
            later = dropwhile(lambda one: one is not announced, self._pending)
            for one in islice(later, 1, None):
                if source in one.files:
                    one.limits[source].restart()

    def _look_at(self, announced: Announced, source: str, path: Path) -> Look:
        now = counted_time()
        still = now - announced.since.get(source, now)
        gaps, channels = announced.gaps.get(source, False), source in (BSDATA, CAMERAS)
        names = announced.names.get(source, ()) if channels and not gaps else ()
        filtered = source in announced.filtered and source not in CHANNELS
        if self._board is None:
            return look_at(path, source, names=names, still=still, filtered=filtered)
        state, message = self._board.state(announced.heard_as[source])
        if state is FileState.FAILED:
            return Look(failure=f"the writer failed: {message}")
        finished = state is FileState.FINISHED
        return look_at(path, source, names=names, finished=finished, still=still, filtered=filtered)

    def _finish(self, announced: Announced) -> None:
        try:
            announced.on_done(announced.found, announced.failures)
        except Exception:
            logger.exception("%s: acquisition %d could not be noted", self._name, announced.index)
        if self._board is not None:
            self._board.forget(announced.heard_as.values())
        with self._changed:
            if announced in self._pending:
                self._pending.remove(announced)
            self._changed.notify_all()


MISSING_SHOWN = 100


def _facts_of_file(
    announced: Announced, source: str, path: Path, found: Sequence[FoundData]
) -> list[dict[str, Any]]:
    """Return the facts about each dataset of a file.

    Rows that are not the pulses asked for, one by one, are shown by a small file in ``announced.aligned``;
    so are PVs. Of a channel that was asked for and cannot be had, and of a detector that has no frame, the
    fact is why: ``absent``.
    """
    if source not in CHANNELS and not found:
        return [_absent(source, source, "has no frame that passed the filters")]
    names = announced.names.get(source, ())
    if source == PVDATA:  # a name that is a channel too is the channel's
        channels = {name for kind in (BSDATA, CAMERAS) for name in announced.names.get(kind, ())}
        names = [name for name in names if name not in channels]
        found = write_held(announced.aligned / path.name, path, found, names, announced.asked)
    rows = [_row(announced, source, path, one) for one in found]
    there = {one.key for one in found}
    return rows + [_absent(source, name, "is not in the file") for name in names if name not in there]


def _absent(source: str, key: str, why: str) -> dict[str, Any]:
    """Return the fact that data cannot be had."""
    return {"source": source, "key": key, "absent": why}


def _row(announced: Announced, source: str, path: Path, data: FoundData) -> dict[str, Any]:
    if data.problem:
        return _absent(source, data.key, data.problem)
    asked, gaps = announced.asked, announced.gaps.get(source, False)
    if source == PVDATA:  # where a value is not known, that is no loss
        view = announced.aligned / path.name
        row = _facts(data, source, view, asked, True) | {"origin": str(path)}
    else:
        view, row = path, _facts(data, source, path, asked, gaps)
    if data.dtype == TEXT:
        try:
            texts = dict(zip(data.pulse_ids.tolist(), read_texts(view, data)))
        except FileFormatError as exc:
            return _absent(source, data.key, f"holds {exc.found}")
        row["texts"] = [texts.get(pulse_id, "") for pulse_id in asked]
    if source != PVDATA and not data.in_rows(asked):
        view = announced.aligned / path.name.replace(source, data.key.replace("/", "_"))
        write_aligned(view, path, data, asked)
        row |= {"path": str(view), "origin": str(path)}
    return row


def _facts(
    data: FoundData, source: str, path: Path, asked: range | list[int], filtered: bool
) -> dict[str, Any]:
    missing = data.missing(asked)
    return {
        "source": source,
        "key": data.key,
        "path": str(path),
        "dataset": data.dataset,
        "ids": data.ids,
        "ids_shape": list(data.ids_shape),
        "ids_dtype": data.ids_dtype,
        "shape": list(data.shape),
        "dtype": data.dtype,
        "n_asked": len(asked),
        "n_got": len(asked) - len(missing),
        "missing": missing[:MISSING_SHOWN].tolist(),
        "filtered": filtered,
    }

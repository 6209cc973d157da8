"""Files of an acquisition, pulse by pulse (wire reference sf-daq-broker, sections 4.4, 13)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError
from ..wire.broker import error_file, log_file, raw_file
from ._hdf5 import h5py

PVDATA, BSDATA, CAMERAS = "PVDATA", "BSDATA", "CAMERAS"
"""Sources that are not detectors, as in the names of files."""

MAX_ROWS = 1_000_000
"""Of a dataset: an acquisition has at most 60 002 pulses."""

MAX_TEXT = 2**20
"""Characters of one channel in one acquisition."""

TEXT = "text"
"""In place of a dtype where the rows are texts."""


@dataclass(frozen=True, slots=True)
class FoundData:
    """One dataset of a file, whose first axis is rows, and the dataset with their pulse ids.

    Attributes
    ----------
    key : str
        Detector, region (``JF01T03V01:ROI_spot``), channel, camera or PV.
    shape, ids_shape : tuple of int
        Of one row of each.
    dtype : str
        numpy's name, or `TEXT`.
    pulse_ids : ndarray of int64
        One per row; 0 where a row holds no frame.
    problem : str
        Why a channel cannot be taken; the rest means nothing then.
    """

    key: str
    dataset: str
    shape: tuple[int, ...]
    dtype: str
    pulse_ids: np.ndarray
    ids: str
    ids_shape: tuple[int, ...] = ()
    ids_dtype: str = "<i8"
    problem: str = ""

    def missing(self, asked: Sequence[int]) -> np.ndarray:
        """Return the pulses of `asked` that have no row, ascending."""
        return np.setdiff1d(np.asarray(asked, "i8"), self.pulse_ids)

    def in_rows(self, asked: Sequence[int]) -> bool:
        """Say whether the rows are exactly the pulses of `asked`, in order."""
        return np.array_equal(self.pulse_ids, np.asarray(asked, "i8"))


def read_daq_file(path: str | Path, source: str, names: Sequence[str] = ()) -> list[FoundData]:
    """Look into a file of one acquisition; nothing that only links to another file is taken.

    Parameters
    ----------
    path : str or Path
    source : str
        ``PVDATA``, ``BSDATA``, ``CAMERAS``, or a detector's name.
    names : sequence of str
        Channels that must be in it. Others that cannot be taken have a `problem`.

    Returns
    -------
    list of FoundData
        Empty only for a file of channels that holds none of them, as when all were offline.

    Raises
    ------
    OSError
        It is not there, not readable yet, or damaged.
    FileFormatError
        It is readable, and not such a file, or one of `names` is not in it.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # a lock could make the writer fail
            found = list(_detector(file, source) if source[:2] == "JF" else _channels(file))
            empty = not (found or len(file) or len(file.attrs)) or (source[:2] == "JF" and not found)
    except (FileFormatError, OSError):
        raise
    except Exception as exc:  # h5py has many words for a file that ends too early
        raise OSError(f"{path}: {exc}") from exc
    if empty:
        raise FileFormatError(path, "data", found="nothing", expected=f"data of {source}")
    taken = {one.key: one.problem for one in found}
    absent = {name: taken.get(name, "nothing") for name in sorted(names) if taken.get(name, "nothing")}
    if absent:
        raise FileFormatError(
            path, ", ".join(absent), found="; ".join(dict.fromkeys(absent.values())), expected="data"
        )
    return found


def read_texts(path: str | Path, found: FoundData) -> list[str]:
    """Return the rows of a dataset of texts, with bytes that are no UTF-8 replaced; see `check_length`."""
    with h5py.File(path, "r", locking=False) as file:
        return texts_of(file[found.dataset])


def texts_of(data: h5py.Dataset) -> list[str]:
    """Return the texts of a dataset: see `read_texts`."""
    texts: list[str] = []
    size, width = 0, data.dtype.itemsize
    check_length(data, width // 4)  # bytes of one text, or of where it is; a character has up to four
    step = min(256, max(1, MAX_TEXT // max(1, width)))
    for first in range(0, len(data), step):
        for one in data[first : first + step].reshape(-1):
            texts.append(one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one))
            size += len(texts[-1])
        check_length(data, size)
    return texts


def check_length(data: h5py.Dataset, n_characters: int) -> None:
    """Raise FileFormatError if the texts of a dataset are too long to be carried along."""
    if n_characters > MAX_TEXT:
        at_most = f"at most {MAX_TEXT} characters"
        raise FileFormatError(data.file.filename, data.name, found="longer texts", expected=at_most)


def _detector(file: h5py.File, name: str) -> Iterator[FoundData]:
    data = _item(file, "data", h5py.Group)
    for key in data or ():
        if key == name or key.startswith(f"{name}:"):
            found = _data_of(file, key, _item(data, key, h5py.Group, needed=True))
            if found.dtype == TEXT:
                raise FileFormatError(file.filename, found.dataset, found="texts", expected="numbers")
            good = _item(file, f"data/{key}/is_good_frame", h5py.Dataset)
            if good is not None:
                found.pulse_ids[_column(good, len(found.pulse_ids)) == 0] = 0
            yield found


def _channels(file: h5py.File) -> Iterator[FoundData]:
    for parent in (file, _item(file, "data", h5py.Group) or {}):
        for key in parent:
            try:
                group = _item(parent, key, h5py.Group)
                if group is None or not {"data", "pulse_id"} <= set(group):
                    continue
                found = _data_of(file, key, group)
                connected = _item(group, "connected", h5py.Dataset)  # of PVs
                if connected is not None:
                    _column(connected, len(found.pulse_ids))
            except FileFormatError as exc:  # costs this channel, not the others
                found = FoundData(key, "", (), "", np.zeros(0, "i8"), "", problem=f"holds {exc.found}")
            yield found


def _data_of(file: h5py.File, key: str, group: h5py.Group) -> FoundData:
    data, ids = (_item(group, name, h5py.Dataset, needed=True) for name in ("data", "pulse_id"))
    n_rows = len(ids) if ids.ndim else 0
    if not data.ndim or len(data) != n_rows:
        raise FileFormatError(
            file.filename, data.name, found=f"shape {data.shape}", expected=f"{n_rows} rows"
        )
    text = h5py.check_string_dtype(data.dtype) is not None
    numbers = data.dtype.kind in "biufc" and 0 not in data.shape[1:]
    if not (text and data.size == n_rows) and not numbers:
        expected = "numbers, or one text per row"
        raise FileFormatError(file.filename, data.name, found=f"{data.dtype} {data.shape}", expected=expected)
    dtype = TEXT if text else data.dtype.str
    shape = () if text else data.shape[1:]
    pulse_ids = _column(ids, n_rows).astype("i8")
    return FoundData(key, data.name, shape, dtype, pulse_ids, ids.name, ids.shape[1:], ids.dtype.str)


def _column(dataset: h5py.Dataset, n_rows: int) -> np.ndarray:
    """Read one integer per row."""
    if n_rows > MAX_ROWS or dataset.shape not in ((n_rows,), (n_rows, 1)) or dataset.dtype.kind not in "iub":
        raise FileFormatError(
            dataset.file.filename,
            dataset.name,
            found=f"{dataset.dtype} {dataset.shape}",
            expected=f"integers, {min(n_rows, MAX_ROWS)} rows",
        )
    return dataset[()].reshape(-1)


def _item(parent: h5py.Group, name: str, kind: type, *, needed: bool = False) -> Any:
    """Return a group or dataset that lies in this file; None if there is nothing of that kind.

    FileFormatError if it is `needed`, or if it only points into another file.
    """
    path = f"{parent.name}/{name}".lstrip("/")
    link = parent.get(name, getlink=True) if name in parent or needed else None
    if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
        raise FileFormatError(parent.file.filename, path, found="a link", expected="data in this file")
    found = parent.get(name)
    if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
        raise FileFormatError(
            parent.file.filename, path, found="data of another file", expected="data in this one"
        )
    if isinstance(found, kind):
        return found
    if needed:
        there = "nothing" if found is None else f"a {type(found).__name__.lower()}"
        raise FileFormatError(parent.file.filename, path, found=there, expected=f"a {kind.__name__.lower()}")
    return None


CLOSING = "processing request took"
"""In the last line of a writer's log."""

SETTLED = 2.0
"""s a file must stand unchanged, where no log says that its writer is done; and s given to a file system to
show what a log says is there."""

SETTLED_UNDER_A_LOG = 30.0
"""The same where a log says that its writer is not done."""

SETTLED_PVS = 0.5
"""The same for PVDATA, whose writer's log has no closing line, and which is written in one go."""

_TAIL = 4096


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at an announced file showed.

    That is what is in it, once it is whole: nothing where no frame passed the filters of the writer, which
    makes no file then; or the `failure` for which it will not come; and what was `seen`, for the message of a
    timeout.
    """

    found: list[FoundData] | None = None
    failure: str = ""
    seen: str = ""


def look_at(
    path: Path,
    source: str,
    *,
    names: Sequence[str] = (),
    finished: bool = False,
    still: float = 0.0,
    filtered: bool = False,
) -> Look:
    """Look once, without waiting.

    Parameters
    ----------
    path : Path
        Where the file will be on this machine, in the ``data/`` or ``raw_data/`` of a run.
    source, names
        See `read_daq_file`.
    finished : bool
        Its writer was heard to be done.
    still : float
        s for which looks have shown nothing new: the times of files may be by a clock that is ahead of ours.
    filtered : bool
        Its writer was told to leave out frames of a detector, and keeps the raw file if that leaves none.
    """
    log = Path(log_file(str(path)))
    if os.path.exists(error_file(str(path))):
        return Look(failure=f"the writer failed: {last_words(path)}")
    try:
        stat = path.stat()
    except FileNotFoundError:
        return _look_at_nothing(path, log, filtered)
    age, words = max(still, time.time() - stat.st_mtime), _tail(log)
    closed = finished or CLOSING in _last(words)
    without_log = SETTLED_PVS if source == PVDATA else SETTLED
    if not closed and age <= (SETTLED_UNDER_A_LOG if words else without_log):
        return Look(seen=f"being written, {stat.st_size} bytes, {_last_time(stat.st_mtime)}")
    try:
        return Look(found=read_daq_file(path, source, names))
    except (OSError, FileFormatError) as exc:
        if closed and age > SETTLED:
            return Look(failure=f"damaged: {exc}")
        return Look(seen=f"not readable yet ({exc})")


def last_words(path: Path) -> str:
    """Return the last line of the log of a file's writer."""
    return _last(_tail(Path(log_file(str(path))))) or "it has no log"


def _look_at_nothing(path: Path, log: Path, filtered: bool) -> Look:
    raw = _raw_seen(path)
    try:
        written = log.stat().st_mtime
    except FileNotFoundError:
        return Look(seen=f"not begun: neither file nor log{raw}")
    tail = _tail(log) if time.time() - written > SETTLED else []
    if CLOSING in _last(tail) and not path.exists():  # it may have come since the first look
        if filtered and raw:
            return Look(found=[], seen="no frame passed the filters")
        return Look(failure=f"the writer says it is done, and there is no file; its log: {tail[-2:]}")
    return Look(seen=f"begun, no file yet; its log: {_last_time(written)}{raw}")


def _raw_seen(path: Path) -> str:
    """Return what is seen of the raw file that a converted file is made of: it is read for minutes before."""
    try:
        stat = Path(raw_file(str(path))).stat()
    except OSError:
        return ""
    return f"; its raw file: {stat.st_size} bytes, {_last_time(stat.st_mtime)}"


def _last_time(written: float) -> str:
    return f"last written at {datetime.fromtimestamp(written):%H:%M:%S.%f}"


def _last(lines: list[str]) -> str:
    return lines[-1] if lines else ""


def _tail(path: Path) -> list[str]:
    """Return the last lines of a log that hold something."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read(_TAIL).decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]

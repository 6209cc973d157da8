"""The run table: one file per run, a line per event in the life of its acquisitions, safe against a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...errors import WireError
from ...files.daq_file import BSDATA, CAMERAS, PVDATA, TEXT
from ...files.held_values import write_empty
from ...wire.broker import acquisition
from ...wire.json_text import load_json

SENDING, ACCEPTED, COMPLETE, FAILED = "asking", "asked", "complete", "failed"
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
        """Append a line about an acquisition, or about the run.

        Parameters
        ----------
        what : str
            What happened to it.
        index : int, optional
            Of the acquisition in the run; None for the run.
        **facts
            Fit for JSON.
        """
        line = {"what": what, "time": time.time(), **({} if index is None else {"index": index}), **facts}
        text = "\n" + json.dumps(line)  # a line cut off by a crash does not spoil the next
        with self.path.open("ab", buffering=0) as file:  # in one piece: two threads write
            file.write(text.encode())

    def rows(self) -> list[dict[str, Any]]:
        """Return the acquisitions in order: all facts about each, and `state`, the last one that counts."""
        return read_rows(self.path)


def _read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
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
    """Return the acquisitions of a table: see `RunTable.rows`.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    list of dict
    """
    rows: dict[int, dict[str, Any]] = {}
    for line in _read_lines(path):
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
    """Return what is known of the run as a whole: the lines without an index, merged.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict
    """
    facts: dict[str, Any] = {}
    for line in _read_lines(path):
        if line.get("what") == RUN:
            facts |= {key: value for key, value in line.items() if key not in ("what", "time")}
    return facts


def tables_of(device: str, directory: Path) -> list[Path]:
    """Return the run tables of a device.

    Parameters
    ----------
    device : str
        Its name.
    directory : Path

    Returns
    -------
    list of Path
        The oldest first.
    """
    paths = sorted(directory.glob("*/run*.jsonl"), key=lambda path: path.stat().st_mtime)
    return [path for path in paths if read_run(path).get("device", device) == device]


Facts = dict[str, Any]
"""About an acquisition (a row of the run table), or about one dataset of it."""

CHANNELS = (PVDATA, BSDATA, CAMERAS)
"""Sources of which one name may be missing without harm to the others."""

_FORM = ("n_asked", "shape", "dtype", "dataset", "ids", "ids_shape", "ids_dtype")


def arrays(row: Facts) -> list[Facts]:
    """Return the datasets of an acquisition that are there.

    Parameters
    ----------
    row : dict
        Of the run table.

    Returns
    -------
    list of dict
        By name: files come in any order.
    """
    return sorted((one for one in row.get("found", ()) if "absent" not in one), key=lambda one: one["key"])


def is_gap_free(row: Facts) -> bool:
    """Say whether every file of an acquisition holds every frame asked for, or may leave some out.

    Parameters
    ----------
    row : dict
        Of the run table.

    Returns
    -------
    bool
    """
    return all(found.get("n_got") == found.get("n_asked") or found["filtered"] for found in arrays(row))


def is_good(row: Facts) -> bool:
    """Say whether an acquisition has an event and data: those of all its detectors at least.

    Parameters
    ----------
    row : dict
        Of the run table.

    Returns
    -------
    bool
    """
    if row["state"] not in (COMPLETE, FAILED) or not row["read"] or not is_gap_free(row):
        return False
    there = {one["source"] for one in row["found"]}
    wanted = {source for source in row.get("expected", there) if source not in CHANNELS}
    return wanted <= there and (row["state"] == COMPLETE or bool(arrays(row)))


def grouped(rows: Iterable[Facts]) -> list[list[Facts]]:
    """Return the acquisitions that go into one stream: the same was asked for, detectors have one form.

    Parameters
    ----------
    rows : iterable of dict
        Of the run table.

    Returns
    -------
    list of list of dict
    """
    groups: dict[str, list[Facts]] = {}
    for row in rows:
        detectors = [(one["key"], _form(one)) for one in arrays(row) if one["source"] not in CHANNELS]
        same = detectors, row.get("names", {}), _n_asked(row)
        groups.setdefault(repr(same), []).append(row)
    return list(groups.values())


def forms_of(rows: Iterable[Facts]) -> dict[str, Facts]:
    """Return the facts about each dataset where it is first there; a PV that never is, is one number.

    Parameters
    ----------
    rows : iterable of dict
        Of the run table.

    Returns
    -------
    dict of str to dict
        By name, sorted.
    """
    forms: dict[str, Facts] = {}
    pvs: dict[str, Facts] = {}
    for row in rows:
        for one in arrays(row):
            forms.setdefault(one["key"], one)
        for name in row.get("names", {}).get(PVDATA, ()):
            pvs.setdefault(name, {"key": name, "source": PVDATA, **_number(name), "n_asked": _n_asked(row)})
    return dict(sorted((pvs | forms).items()))


def _n_asked(row: Facts) -> int:
    """Return how many pulses an acquisition asked for."""
    asked = row.get("asked", {})
    return len(range(*asked["range"]) if "range" in asked else asked.get("ids", ()))


def filled(row: Facts, forms: dict[str, Facts]) -> Facts:
    """Return an acquisition with every dataset of some forms, in order, and what is `missing` in words.

    In place of a channel that is not there, or has another form than before, comes an empty one.

    Parameters
    ----------
    row : dict
        Of the run table.
    forms : dict of str to dict
        See `forms_of`.

    Returns
    -------
    dict
        The row with these ``found``.
    """
    there = {one["key"]: one for one in row["found"]}
    complete, missing = [], []
    for key, form in forms.items():
        one = there.get(key, {"absent": _why(row, form["source"])})
        if "absent" not in one and _form(one) != _form(form):
            one = {"absent": f"has {_words(one)} per pulse, not {_words(form)} as before"}
        if "absent" in one:
            missing.append(f"{key} {one['absent']}")
            one = _empty(row, form)
        complete.append(one)
    missing += [f"{one['key']} {one['absent']}" for one in row["found"] if one["key"] not in forms]
    return row | {"found": complete, "missing": "; ".join(missing)}


def _why(row: Facts, source: str) -> str:
    path = row.get("expected", {}).get(source, "")
    return row.get("failures", {}).get(path, "is not in the file")


def _form(one: Facts) -> tuple:
    return tuple(one.get(name) for name in _FORM)


def _words(one: Facts) -> str:
    return "a text" if one["dtype"] == TEXT else f"{one['dtype']} {tuple(one['shape'])}"


def _number(name: str) -> Facts:
    ids = {"ids": f"/data/{name}/pulse_id", "ids_shape": [], "ids_dtype": "<i8"}
    return {"dataset": f"/data/{name}/data", "shape": [], "dtype": "<f8", **ids}


def _empty(row: Facts, form: Facts) -> Facts:
    """Write an empty dataset of a form, and return the facts about it."""
    n = form["n_asked"]
    name = form["key"].replace("/", "_")
    path = Path(row["aligned"]) / f"{acquisition(row['acquisition_number'])}.{name}.missing.h5"
    ids = form["ids"], (n, *form["ids_shape"]), form["ids_dtype"]
    write_empty(path, form["dataset"], (n, *form["shape"]), form["dtype"], ids)
    texts = {"texts": [""] * n} if form["dtype"] == TEXT else {}
    return form | {"path": str(path), "n_got": 0, **texts}

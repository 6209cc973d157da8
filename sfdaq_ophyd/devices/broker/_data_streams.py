"""Checked files as documents: one stream per run, one row per acquisition, row k for event k.

They are collected before the run closes, or added to it afterwards, from the run tables on disk.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Protocol

from event_model import ComposeDescriptor, RunStart

from ...errors import RunNotFound, ServiceTimeout
from ...files.daq_file import PVDATA, TEXT
from ...files.held_values import write_empty
from ...limits import Limit
from ...wire.broker import acquisition
from .._assets import FileAssets
from ._follower import FileFollower, announced
from ._run import ACCEPTED, CHANNELS, REGISTERED, RUN, Facts, RunTable, TableRow

logger = logging.getLogger(__name__)

LATE_PERIOD = 0.05
"""s between two looks at what is awaited after a run."""

MISSING = "missing_channels"
"""Key, after the device's name, of what an acquisition lacks, in words; empty if it lacks nothing."""

_SCALARS = ("acquisition_number", "start_pulse_id", "stop_pulse_id")
_EXTERNAL = {"external": "STREAM:"}


@dataclass
class Batch:
    """What one collect gives: a partial event page, documents of external data, and the rows they are of."""

    page: dict
    documents: Iterable[tuple[str, dict]] = ()
    indices: Sequence[int] = ()


class FlownRows:
    """A flyer that has flown: rows that are there, to be collected once, batch by batch.

    What is collected together gets the same `seq_nums`. That acquisitions are in the documents is noted in
    their `table`.
    """

    parent = None
    hints: ClassVar[dict] = {"fields": []}  # without, callbacks would plot every key

    def __init__(self, stream: str, keys: dict, batches: Sequence[Batch], table: RunTable | None = None):
        self.name, self.batches = stream, batches
        self._keys, self._left, self._table = keys, iter(batches), table
        self._batch: Batch

    @property
    def n_batches(self) -> int:
        """How often to collect it."""
        return len(self.batches)

    def describe_collect(self) -> dict:
        """Return the data keys."""
        return self._keys

    def collect_asset_docs(self) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next batch; bluesky takes them before its page."""
        self._batch = next(self._left)
        yield from self._batch.documents

    def collect_pages(self) -> Iterator[dict]:
        """Yield the page of that batch, and note that its rows are in the documents."""
        yield self._batch.page
        self.note_registered([self._batch])

    def note_registered(self, batches: Sequence[Batch]) -> None:
        """Note that the rows of batches are in the documents."""
        if self._table is not None:
            for index in (index for batch in batches for index in batch.indices):
                self._table.write(REGISTERED, index)


def data_streams(name: str, table: RunTable, taken: Container[str] = ()) -> list[tuple[str, FlownRows]]:
    """Return what is to be collected at the end of a run: stream names and flyers.

    Acquisitions whose event was read and whose files are whole come in ``NAME_data``; a second shape, after
    a change of settings, in ``NAME_data_2``; everything else that was asked for in ``NAME_unused``. Streams
    that the run has already are `taken`: further ones get the next number.
    """
    rows = [row for row in table.rows() if not row["registered"] and "files" in row]
    groups = [group for group in _grouped(row for row in rows if row.is_good) if _holds_data(group)]
    good = [row for group in groups for row in group]
    streams = []
    for stream, group in zip(_names(f"{name}_data", taken), groups):
        streams.append((stream, FlownRows(stream, *_with_data(name, group), table)))
    if unused := [row for row in rows if row not in good]:
        stream = next(_names(f"{name}_unused", taken))
        streams.append((stream, FlownRows(stream, *_without_data(name, unused), table)))
    return streams


def text_row(stream: str, device: str, texts: dict[str, str]) -> FlownRows:
    """Return one row of texts, to be collected."""
    row = {_key_of(device, name): text for name, text in texts.items()}
    return FlownRows(stream, {key: _key(device, "string") for key in row}, [Batch(_page([row]))])


def _names(stream: str, taken: Container[str]) -> Iterator[str]:
    """Yield names of further streams of a kind."""
    names = (stream if number == 1 else f"{stream}_{number}" for number in count(1))
    return (name for name in names if name not in taken)


def _key_of(name: str, what: str) -> str:
    """Return a data key; characters that have a meaning in the catalog become ``_``."""
    return f"{name}_{re.sub(r'[./]', '_', what)}"


def _key(device: str, dtype: str, numpy: str = "", shape: Sequence[int] = ()) -> dict:
    """Describe a data key."""
    more = {"dtype_numpy": numpy} if numpy else {}
    return {"source": f"broker:{device}", "dtype": dtype, **more, "shape": list(shape)}


def _page(rows: Sequence[dict[str, Any]]) -> dict:
    """Return rows of the same keys as a partial event page."""
    now = time.time()
    data = {key: [row[key] for row in rows] for key in rows[0]}
    return {"time": [now] * len(rows), "data": data, "timestamps": {key: [now] * len(rows) for key in data}}


def _with_data(device: str, rows: Sequence[TableRow]) -> tuple[dict, list[Batch]]:
    """Return the keys of acquisitions with their data, external, in the DAQ's own files; and a batch each.

    The keys are numbers, and per dataset the data, the pulse ids and the count. Each file has the `seq_nums`
    of its event.
    """
    forms = _forms_of(rows)
    rows = [_filled(row, forms) for row in rows]
    has_channels = any(row.get("names") for row in rows)
    keys = {_key_of(device, scalar): _key(device, "integer", "<i8") for scalar in _SCALARS}
    for number, form in enumerate(forms.values()):
        key, n = _key_of(device, form["key"]), form["n_asked"]
        if form["dtype"] == TEXT:
            texts = [text for row in rows for text in row["found"][number]["texts"]]
            keys[key] = _key(device, "array", f"<U{max(1, *map(len, texts))}", [n])
        else:
            keys[key] = _key(device, "array", form["dtype"], [n, *form["shape"]]) | _EXTERNAL
        ids = _key(device, "array", form["ids_dtype"], [n, *form["ids_shape"]])
        keys[f"{key}_pulse_id"] = ids | _EXTERNAL
        keys[f"{key}_n_frames"] = _key(device, "integer", "<i8")
    if has_channels:
        keys[_key_of(device, MISSING)] = _key(device, "string")
    batches = []
    for row in rows:
        event = {_key_of(device, scalar): row[scalar] for scalar in _SCALARS}
        for found in row["found"]:
            key = _key_of(device, found["key"])
            event |= {key: found["texts"]} if found["dtype"] == TEXT else {}
            event[f"{key}_n_frames"] = found["n_got"]
        if has_channels:
            event[_key_of(device, MISSING)] = row["missing"]
        batches.append(Batch(_page([event]), _documents_of(device, row), [row["index"]]))
    return keys, batches


def _documents_of(device: str, row: TableRow) -> Iterator[tuple[str, dict]]:
    """Yield a resource and a datum per dataset."""
    for found in row["found"]:
        key, n, shape = _key_of(device, found["key"]), found["n_asked"], found["shape"]
        parts = {}
        if found["dtype"] != TEXT:
            parts[key] = _stacked(found["dataset"], (n, *shape))
        parts[f"{key}_pulse_id"] = _stacked(found["ids"], (n, *found["ids_shape"]))
        yield from FileAssets(found["path"], parts).documents(0, 1)


def _stacked(dataset: str, shape: tuple[int, ...]) -> dict:
    """Return the parameters of a StreamResource; writers take a row of shape (1,) for a number."""
    chunk = (1,) if shape == (1,) else (1, *shape)
    return {"dataset": dataset, "chunk_shape": chunk, "join_method": "stack"}


def _without_data(device: str, rows: Sequence[TableRow]) -> tuple[dict, list[Batch]]:
    """Return the keys of acquisitions without data here, given up, failed or not written yet; and one batch.

    The keys are numbers, state, what is known, and the files, one per line. An acquisition that has an event,
    and whose files are still awaited, is left to `register_late` as well.
    """
    texts = {
        "state": lambda row: row["state"],
        "detail": _detail,
        "file_list": lambda row: "\n".join(row["files"]),
    }
    keys = {_key_of(device, scalar): _key(device, "integer", "<i8") for scalar in _SCALARS}
    keys |= {_key_of(device, text): _key(device, "string") for text in texts}
    events = [
        {_key_of(device, scalar): row.get(scalar, 0) for scalar in _SCALARS}
        | {_key_of(device, text): told(row) for text, told in texts.items()}
        for row in rows
    ]
    over = [row["index"] for row in rows if not (row["read"] and row["state"] == ACCEPTED)]
    return keys, [Batch(_page(events), indices=over)]


def _detail(row: TableRow) -> str:
    failures = [f"{path}: {reason}" for path, reason in row.get("failures", {}).items()]
    absent = [f"{source} {why}" for source, why in row.frameless.items()]
    lost = [
        f"{found['key']}: {found['n_got']} of {found['n_asked']} frames"
        for found in row.arrays
        if found["n_got"] < found["n_asked"]
    ]
    return "; ".join([*failures, *absent, *lost]) or row.get("reason", "")


_FORM = ("n_asked", "shape", "dtype", "dataset", "ids", "ids_shape", "ids_dtype")


def _grouped(rows: Iterable[TableRow]) -> list[list[TableRow]]:
    """Return the acquisitions that go into one stream: the same was asked for, detectors have one form.

    One of which a detector has no frame goes to those that have the form of its other detectors.
    """
    groups: dict[str, list[TableRow]] = {}
    for row in sorted(rows, key=lambda row: len(row.frameless)):
        gone, first = row.frameless, row
        if gone:
            fitting = (group[0] for group in groups.values() if _same(group[0], gone) == _same(row, gone))
            first = next(fitting, row)
        groups.setdefault(_same(first), []).append(row)
    in_order = (sorted(group, key=lambda row: row["index"]) for group in groups.values())
    return sorted(in_order, key=lambda group: group[0]["index"])


def _same(row: TableRow, without: Container[str] = ()) -> str:
    """Return what acquisitions of one stream have in common, but for some detectors."""
    arrays = [one for one in row.arrays if one["source"] not in CHANNELS and one["source"] not in without]
    return repr(([(one["key"], _form(one)) for one in arrays], row.get("names", {}), len(row.pulses)))


def _holds_data(group: Iterable[TableRow]) -> bool:
    """Say whether anything but numbers is in a stream of these acquisitions."""
    return any(row.arrays or row.get("names") for row in group)


def _forms_of(rows: Iterable[TableRow]) -> dict[str, Facts]:
    """Return the facts about each dataset where it is first there; a PV that never is, is one number."""
    forms: dict[str, Facts] = {}
    pvs: dict[str, Facts] = {}
    for row in rows:
        for one in row.arrays:
            forms.setdefault(one["key"], one)
        for name in row.get("names", {}).get(PVDATA, ()):
            pvs.setdefault(name, {"key": name, "source": PVDATA, **_number(name), "n_asked": len(row.pulses)})
    return dict(sorted((pvs | forms).items()))


def _filled(row: TableRow, forms: dict[str, Facts]) -> TableRow:
    """Return an acquisition with every dataset of some forms, in order, and what is ``missing`` in words.

    In place of a channel that is not there, or has another form than before, comes an empty one.
    """
    there = {one["key"]: one for one in row["found"]}
    complete, missing = [], []
    for key, form in forms.items():
        one = there.get(key, {"absent": row.frameless.get(form["source"]) or _why(row, form["source"])})
        if "absent" not in one and _form(one) != _form(form):
            one = {"absent": f"has {_form_text(one)} per pulse, not {_form_text(form)} as before"}
        if "absent" in one:
            missing.append(f"{key} {one['absent']}")
            one = _empty(row, form)
        complete.append(one)
    missing += [f"{one['key']} {one['absent']}" for one in row["found"] if one["key"] not in forms]
    return TableRow(row, found=complete, missing="; ".join(missing))


def _why(row: TableRow, source: str) -> str:
    path = row.get("expected", {}).get(source, "")
    return row.get("failures", {}).get(path, "is not in the file")


def _form(one: Facts) -> tuple:
    return tuple(one.get(name) for name in _FORM)


def _form_text(one: Facts) -> str:
    return "a text" if one["dtype"] == TEXT else f"{one['dtype']} {tuple(one['shape'])}"


def _number(name: str) -> Facts:
    ids = {"ids": f"/data/{name}/pulse_id", "ids_shape": [], "ids_dtype": "<i8"}
    return {"dataset": f"/data/{name}/data", "shape": [], "dtype": "<f8", **ids}


def _empty(row: TableRow, form: Facts) -> Facts:
    """Write an empty dataset of a form, and return the facts about it."""
    n = form["n_asked"]
    name = form["key"].replace("/", "_")
    path = Path(row["aligned"]) / f"{acquisition(row['acquisition_number'])}.{name}.missing.h5"
    ids = form["ids"], (n, *form["ids_shape"]), form["ids_dtype"]
    write_empty(path, form["dataset"], (n, *form["shape"]), form["dtype"], ids)
    texts = {"texts": [""] * n} if form["dtype"] == TEXT else {}
    return form | {"path": str(path), "n_got": 0, **texts}


class RunCatalog(Protocol):
    """What this needs of an `EmbeddedCatalog`."""

    def __contains__(self, uid: object) -> bool:
        """Tell whether a run is there."""

    def __getitem__(self, uid: str) -> Mapping[str, Any]:
        """Return a run: its streams by name."""

    def runs_at(self, time: float) -> list[str]:
        """Return the uids of runs that were open at a time, s since the epoch; the latest first."""

    def extend(self, uid: str, documents: Iterable[tuple[str, dict]]) -> None:
        """Add documents, as pairs of name and document, to a run that is closed already."""


def register_late(
    name: str, tables: Iterable[RunTable], catalog: RunCatalog, *, file_timeout: float, timeout: float
) -> dict[str, list[str]]:
    """Check what was not checked, and add the streams to the runs in the catalog, by the tables on disk.

    Parameters
    ----------
    name : str
        Of the broker device.
    tables : iterable of RunTable
        Of runs that are closed; those that are registered already are passed over.
    catalog : Catalog
        Runs that are not in it are left for later.
    file_timeout : float
        How long files that nobody has followed to their end are awaited, s from now.
    timeout : float
        Longest wait in all, s.

    Returns
    -------
    dict of str to list of str
        The streams added, by the uid of the run.

    Raises
    ------
    ServiceTimeout
        Files were still awaited after `timeout` s. What is whole stays to be registered by the next call.
    """
    done: dict[str, list[str]] = {}
    follower = FileFollower(f"{name} late")
    waiting = [
        table for table in tables if any("files" in row and not row["registered"] for row in table.rows())
    ]
    found = [(table, _uid_of(name, table, catalog)) for table in waiting]
    uids = [(table, uid) for table, uid in found if uid is not None and uid in catalog]
    for table, _ in uids:
        for row in table.rows():
            if row["state"] == ACCEPTED:
                follower.follow(announced(table, row, file_timeout))
    limit, wait = Limit(timeout), threading.Event()
    while follower.n_pending:
        if limit.reached():
            seen = follower.last_seen
            follower.forget()
            raise ServiceTimeout(f"{name}: late registration", timeout, seen)
        limit.wait(wait, LATE_PERIOD)
    follower.end_run()
    for table, uid in uids:
        try:
            streams = data_streams(name, table, catalog[uid])
            catalog.extend(uid, _documents(uid, streams))
        except RunNotFound:
            logger.warning("%s: run %s went from the catalog", name, uid)
            continue
        for _, rows in streams:
            rows.note_registered(rows.batches)
        done[uid] = [stream for stream, _ in streams]
    return done


def _uid_of(name: str, table: RunTable, catalog: RunCatalog) -> str | None:
    """Return the uid of a table's run: it is in the table, or the run is the one with these pulses."""
    uid = table.run_facts().get("run_uid")
    if uid is not None:
        return uid
    rows = [row for row in table.rows() if row["read"] and "asked_at" in row]
    pulses = {row["start_pulse_id"] for row in rows}
    for uid in catalog.runs_at(rows[-1]["asked_at"]) if rows else ():
        if not pulses.isdisjoint(_column(catalog[uid], f"{name}_start_pulse_id")):
            table.write(RUN, run_uid=uid)
            return uid
    return None


def _column(run: Mapping[str, Any], key: str) -> Iterator[int]:
    """Yield the values of a key in whatever stream has it."""
    for stream in run:
        if key in run[stream]:
            yield from map(int, run[stream][key].read())


def _documents(uid: str, streams: list[tuple[str, Any]]) -> Iterator[tuple[str, dict]]:
    """Yield the documents of streams for a run that has a start document already."""
    start: RunStart = {"uid": uid, "time": 0.0}  # of which only the uid goes into the descriptors
    compose = ComposeDescriptor(start=start, streams={}, event_counters={})
    for stream, rows in streams:
        bundle = compose(name=stream, data_keys=rows.describe_collect())
        descriptor = bundle.descriptor_doc
        yield "descriptor", dict(descriptor)
        for seq_num, batch in enumerate(rows.batches, 1):
            place = {"descriptor": descriptor["uid"], "seq_nums": {"start": seq_num, "stop": seq_num + 1}}
            for kind, doc in batch.documents:
                yield kind, {**doc, **({"run_start": uid} if kind == "stream_resource" else place)}
            parts = {name: batch.page[name] for name in ("data", "timestamps", "time")}
            yield "event_page", dict(bundle.compose_event_page(**parts))

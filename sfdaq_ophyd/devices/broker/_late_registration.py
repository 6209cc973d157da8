"""Register files after their run has closed: from the run tables on disk, also after a crash."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from event_model import ComposeDescriptor, RunStart

from ...errors import RunNotFound, ServiceTimeout
from ...limits import Limit
from ._data_streams import data_streams
from ._follower import FileFollower
from ._run import announced
from ._run_table import ACCEPTED, RUN, RunTable, TableRow

logger = logging.getLogger(__name__)

PERIOD = 0.05


class Catalog(Protocol):
    """What this needs of an `EmbeddedCatalog`."""

    def __contains__(self, uid: object) -> bool:
        """Tell whether a run is there."""

    def __getitem__(self, uid: str) -> Mapping[str, Any]:
        """Return a run: its streams by name."""

    def runs_at(self, time: float) -> list[str]:
        """Return the uids of runs that were open at a time, s since the epoch; the latest first."""

    def extend(self, uid: str, documents: Any) -> None:
        """Add documents, as pairs of name and document, to a run that is closed already."""


def register_late(
    name: str, tables: Iterable[RunTable], catalog: Catalog, *, file_timeout: float, timeout: float
) -> dict[str, list[str]]:
    """Check what was not checked, and add the streams to the runs in the catalog.

    Parameters
    ----------
    name : str
        Of the device.
    tables : iterable of RunTable
        Of closed runs.
    file_timeout : float
        s from now for files nobody has followed to their end.
    timeout : float
        s for everything.

    Returns
    -------
    dict of str to list of str
        Uid of each run to the streams added to it. Runs that are not in the catalog are left for later.

    Raises
    ------
    ServiceTimeout
        Files are still awaited; what is whole stays to be registered by the next call.
    """
    done: dict[str, list[str]] = {}
    follower = FileFollower(f"{name} late")
    waiting = [table for table in tables if any(_waits(row) for row in table.rows())]
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
        limit.wait(wait, PERIOD)
    follower.end_run()
    for table, uid in uids:
        try:
            streams = data_streams(name, table, catalog[uid])
            catalog.extend(uid, _documents(uid, streams))
        except RunNotFound:
            logger.warning("%s: run %s went from the catalog", name, uid)
            continue
        for _, rows in streams:
            rows.note_registered()
        done[uid] = [stream for stream, _ in streams]
    return done


def _uid_of(name: str, table: RunTable, catalog: Catalog) -> str | None:
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


def _waits(row: TableRow) -> bool:
    return not row["registered"] and "files" in row


def _documents(uid: str, streams: list[tuple[str, Any]]) -> Iterator[tuple[str, dict]]:
    """Yield the documents of streams for a run that has a start document already."""
    start: RunStart = {"uid": uid, "time": 0.0}  # of which only the uid goes into the descriptors
    compose = ComposeDescriptor(start=start, streams={}, event_counters={})
    for stream, rows in streams:
        bundle = compose(name=stream, data_keys=rows.describe_collect())
        descriptor = bundle.descriptor_doc
        yield "descriptor", dict(descriptor)
        for seq_num, batch in enumerate(rows.batches(), 1):
            place = {"descriptor": descriptor["uid"], "seq_nums": {"start": seq_num, "stop": seq_num + 1}}
            for kind, doc in batch.documents:
                yield kind, {**doc, **({"run_start": uid} if kind == "stream_resource" else place)}
            parts = {name: batch.page[name] for name in ("data", "timestamps", "time")}
            yield "event_page", dict(bundle.compose_event_page(**parts))

"""The documents of a run as they were emitted, for whoever asks a client or a server for them."""

from __future__ import annotations

import functools
import json
import math
import sys
import uuid
from collections.abc import Iterable, Iterator
from typing import cast

import event_model
import numpy as np
from tiled.utils import OneShotCachedMap

from .journal import Journal

BLOCK = 2**24
"""Bytes of an array that are read at once."""


class _Clients(OneShotCachedMap):
    """Classes by spec; a copy is one's own: databroker sets its classes in the copy that it makes."""

    def __copy__(self) -> _Clients:
        return _Clients({name: functools.partial(self.__getitem__, name) for name in self})


def with_documents(shared, journal: Journal) -> _Clients:
    """Return the client classes `shared`, with runs whose ``documents()`` are those that went in.

    ``documents(fill=True)`` has in its events what others refer to: see `filled`. Of a run that the journal
    does not know, the server composes documents of what it has stored.
    """
    from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRunV3

    class Run(BlueskyRunV3):
        def documents(self, fill: bool = False):
            """Yield the documents that went in, as (name, doc).

            Parameters
            ----------
            fill : bool
                Whether events get the values that lie in files, in place of the documents of these.
            """
            if (serializer := sys.modules.get("suitcase.msgpack")) is not None:
                _complete(serializer)
            path = journal.find(self.metadata["start"]["uid"])
            documents = super().documents() if path is None else journal.read(path)
            yield from filled(documents, self) if fill and fill != "no" else documents

    Run.__name__ = Run.__qualname__ = "BlueskyRun"
    clients = _Clients({name: functools.partial(shared.__getitem__, name) for name in shared})
    clients.set("BlueskyRun", lambda: Run)
    return clients


def _complete(msgpack) -> None:
    """Have suitcase-msgpack write documents of files as it does others; 0.3 passes over them in silence."""

    def handler(name: str):
        def write(self, doc) -> None:
            self._buffer.write(msgpack._encode((name, doc), **self._kwargs))  # noqa: SLF001

        return write

    for name in ("stream_resource", "stream_datum"):
        if name not in vars(msgpack.Serializer):
            setattr(msgpack.Serializer, name, handler(name))


def filled(documents: Iterable[tuple[str, dict]], run) -> Iterator[tuple[str, dict]]:
    """Yield a run's documents with all its values in events: no file is needed to read it elsewhere.

    Yields
    ------
    (str, dict)
        Points that are in files alone have an event at the end, with the time of the stop document. What no
        document says to be there is missing in its event.
    """
    streams: dict[str, str] = {}  # by descriptor
    values: dict[str, dict[str, _Rows]] = {}  # by stream and key
    keys: dict[str, str] = {}  # by resource
    in_files: dict[tuple[str, int], str] = {}  # descriptors, by stream and sequence number
    told: set[tuple[str, int]] = set()

    def whole(event: dict) -> dict:
        stream = streams[event["descriptor"]]
        told.add((stream, event["seq_num"]))
        rows = values[stream]
        event = {**event, "data": dict(event["data"]), "timestamps": dict(event["timestamps"]), "filled": {}}
        for key in rows:
            if (value := rows[key].at(event["seq_num"])) is not None:
                event["data"][key] = value
                event["timestamps"].setdefault(key, event["time"])
        return event

    for name, doc in documents:
        if name == "descriptor":
            streams[doc["uid"]] = stream = doc["name"]
            rows_of = values.setdefault(stream, {})
            for key, spec in doc["data_keys"].items():
                if "external" in spec and key not in rows_of:
                    rows_of[key] = _Rows(run, stream, key, spec["shape"])
            described = {
                key: {word: value for word, value in spec.items() if word != "external"}
                for key, spec in doc["data_keys"].items()
            }
            yield name, {**doc, "data_keys": described}
        elif name == "stream_resource":
            keys[doc["uid"]] = doc["data_key"]
        elif name == "stream_datum":
            rows = values[streams[doc["descriptor"]]][keys[doc["stream_resource"]]]
            for seq_num in range(doc["seq_nums"]["start"], doc["seq_nums"]["stop"]):
                rows.has(seq_num)
                in_files[streams[doc["descriptor"]], seq_num] = doc["descriptor"]
        elif name == "event":
            yield name, whole(doc)
        elif name == "event_page":
            yield from (
                ("event", whole(event))
                for event in event_model.unpack_event_page(cast(event_model.EventPage, doc))
            )
        elif name not in ("resource", "datum", "datum_page"):
            if name == "stop":
                for (_, seq_num), descriptor in [each for each in in_files.items() if each[0] not in told]:
                    uid = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{descriptor}/{seq_num}"))
                    point = {"uid": uid, "descriptor": descriptor, "seq_num": seq_num, "time": doc["time"]}
                    yield "event", whole({**point, "data": {}, "timestamps": {}})
            yield name, doc


class _Rows:
    """An array of a stream, read in blocks by sequence number; what a pause repeats is there twice.

    Rows of which no stream datum tells, such as those of older datums, are in the order of their points.
    """

    def __init__(self, run, stream: str, key: str, shape: list):
        self._find = functools.cache(lambda: run[stream][key])
        self._shape = shape
        self._row: dict[int, int] = {}
        self._n = 0
        self._first, self._block = 0, np.empty(0)

    def has(self, seq_num: int) -> None:
        """Take note of a row."""
        self._row[seq_num] = self._n
        self._n += 1

    def at(self, seq_num: int):
        """Return the value of a point, in the shape that its descriptor says; None if it has none."""
        row = self._row.get(seq_num, seq_num - 1)
        if seq_num not in self._row and row < self._n:
            return None  # that is the row of another point
        if not self._first <= row < self._first + len(self._block):
            array = self._find()
            n = max(1, BLOCK // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))
            self._first, self._block = row, np.asarray(array[row : row + n])
        value = self._block[row - self._first]
        if None not in self._shape and np.size(value) == math.prod(self._shape):
            value = np.reshape(value, self._shape)
        return value if np.ndim(value) else np.asarray(value).item()


def runs_of(client, journal: Journal):
    """Return `client` as a catalog of runs, whatever its container says of itself; see `with_documents`."""
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

    class Runs(CatalogOfBlueskyRuns):
        is_sql = True  # else it sends queries that a stock server does not know

    clients = with_documents(client.structure_clients, journal)
    return Runs(client.context, item=client.item, structure_clients=clients)


def exporter(journal: Journal):
    """Return the server's way to export a run as a JSON sequence: as in `with_documents`."""
    from bluesky_tiled_plugins.exporters import json_seq_exporter

    async def export(mimetype, adapter, metadata, filter_for_access):
        path = journal.find(metadata.get("start", {}).get("uid", ""))
        if path is None:
            async for record in json_seq_exporter(mimetype, adapter, metadata, filter_for_access):
                yield record
            return
        await filter_for_access(adapter)
        for name, doc in journal.read(path):
            if name == "datum":  # stock clients take pages of these alone
                name, doc = "datum_page", dict(event_model.pack_datum_page(cast(event_model.Datum, doc)))
            yield "\x1e" + json.dumps({"name": name, "doc": doc}) + "\n"

    return export

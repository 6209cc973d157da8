"""The documents of a run as they were emitted, for whoever asks a client or a server for them."""

from __future__ import annotations

import functools
import json

import event_model
from tiled.utils import OneShotCachedMap

from ._journal import Journal


class _Clients(OneShotCachedMap):
    """Classes by spec; a copy is one's own: databroker sets its classes in the copy that it makes."""

    def __copy__(self) -> _Clients:
        return _Clients({name: functools.partial(self.__getitem__, name) for name in self})


def with_documents(shared, journal: Journal) -> _Clients:
    """Return the client classes `shared`, with runs whose ``documents()`` are those that went in.

    Parameters
    ----------
    shared : mapping
        Classes of tiled clients by spec.
    journal : Journal
        For a run that it does not know, the server composes documents of what it has stored.
    """
    from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRunV3

    class Run(BlueskyRunV3):
        def documents(self, fill: bool = False):
            path = None if fill else journal.find(self.metadata["start"]["uid"])
            yield from super().documents(fill) if path is None else journal.read(path)

    Run.__name__ = Run.__qualname__ = "BlueskyRun"
    clients = _Clients({name: functools.partial(shared.__getitem__, name) for name in shared})
    clients.set("BlueskyRun", lambda: Run)
    return clients


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
                name, doc = "datum_page", event_model.pack_datum_page(doc)
            yield "\x1e" + json.dumps({"name": name, "doc": doc}) + "\n"

    return export

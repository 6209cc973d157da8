"""Documents of one run into Tiled, in batches of our own choosing.

Built on the writer of bluesky-tiled-plugins rather than the older copy in bluesky: it closes the
streams of a finished run, repeats lost appends, concatenates stream datums and is where upstream
works. That one writes every N events; a live catalog wants *what has come by now*, hence ``flush``.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
from bluesky_tiled_plugins.writing.consolidators import Patch
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer, _RunWriter

HDF5 = "application/x-hdf5"

EXACT = 2**53
"""Integers of metadata beyond this lose digits in JSON; they are stored as text."""


class RunWriter:
    """Callback for the documents of one run; what it holds back is written by :meth:`flush`.

    Parameters
    ----------
    client : tiled.client.container.Container
        The root of the catalog, made with ``include_data_sources``.
    """

    def __init__(self, client):
        # Arrays in table cells come back as text, so every array gets a node of its own.
        self._writer = _FlushableWriter(client, batch_size=sys.maxsize, max_array_size=0)
        types = _DeclaredTypes()
        self._normalizer = RunNormalizer(
            patches={
                "start": exact_metadata,
                "stop": exact_metadata,
                "descriptor": types.descriptor,
                "event": types.event,
            }
        )
        self._normalizer.subscribe(self._writer)

    def __call__(self, name: str, doc: dict) -> None:
        self._normalizer(name, doc)

    def go_on(self, run) -> None:
        """Write into a run that is there already, in place of one begun by a start document."""
        self._writer.root_node = run

    def flush(self) -> None:
        """Write everything received so far: one request per table, array and external key."""
        self._writer.flush()


class _FlushableWriter(_RunWriter):
    """Writes when it is told to; says of each file which points of it are registered.

    Upstream counts the points of all files together, which places them right only where no file holds more.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._rows = defaultdict(dict)  # node to {file's resource: (start, stop)}, in the order of the assets

    def _update_consolidator(self, doc):
        node, consolidator, patch = super()._update_consolidator(doc)
        rows, indices = self._rows[node.uri], doc["indices"]
        start, _ = rows.get(doc["stream_resource"], (indices["start"], 0))
        rows[doc["stream_resource"]] = (start, indices["stop"])
        return node, consolidator, patch

    def _update_data_source_for_node(self, node, data_source, patch=None) -> None:
        if data_source.mimetype == HDF5 and self._rows[node.uri]:
            data_source.parameters["rows"] = list(self._rows[node.uri].values())
        super()._update_data_source_for_node(node, data_source, patch)

    def flush(self) -> None:
        for stream, rows in self._internal_data_cache.items():
            if rows:
                self._write_internal_data(rows, desc_node=self._desc_nodes[stream])
                rows.clear()
        patches = defaultdict(list)
        for datum in self._external_data_cache.values():
            node, consolidator, patch = self._update_consolidator(datum)
            patches[node, consolidator].append(patch)
        self._external_data_cache.clear()
        for (node, consolidator), parts in patches.items():
            source = consolidator.get_data_source()
            self._update_data_source_for_node(node, source, Patch.combine_patches(parts))


class _DeclaredTypes:
    """Give event values the type their descriptor declares.

    A table gets its column types from its first rows: without this a motor that starts at the
    integer 0 would make a column of integers, and 0.5 would not go in.
    """

    def __init__(self):
        self._floats: dict[str, list[str]] = {}

    def descriptor(self, doc: dict) -> dict:
        """Remember which scalars of a stream are floating point."""
        self._floats[doc["uid"]] = [
            key
            for key, spec in doc["data_keys"].items()
            if spec["dtype"] == "number"
            and not spec.get("external")
            and np.dtype(spec.get("dtype_numpy") or "f8").kind == "f"
        ]
        doc["configuration"] = exact_metadata(doc.get("configuration", {}))
        return doc

    def event(self, doc: dict) -> dict:
        """Make declared numbers floats; a missing value becomes NaN."""
        data = doc["data"]
        for key in self._floats[doc["descriptor"]]:
            if key in data and type(data[key]) is not float:
                value = data[key]
                data[key] = float("nan") if value is None else float(value)
        return doc


def exact_metadata(value):
    """Return `value` with every integer beyond 2**53 as text, at any depth; shared parts are not changed."""
    if isinstance(value, dict):
        return {key: exact_metadata(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [exact_metadata(item) for item in value]
    if isinstance(value, int | np.integer) and not -EXACT < value < EXACT:
        return str(value)
    return value

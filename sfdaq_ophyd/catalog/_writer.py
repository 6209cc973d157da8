"""Documents of one run into Tiled, in batches of our own choosing.

Built on the writer of bluesky-tiled-plugins rather than the older copy in bluesky: it closes the
streams of a finished run, repeats lost appends, concatenates stream datums and is where upstream
works. That one writes every N events; a live catalog wants *what has come by now*, hence ``flush``.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow
from bluesky_tiled_plugins.writing.consolidators import ConsolidatorBase, Patch, consolidator_factory
from bluesky_tiled_plugins.writing.tiled_writer import (
    MAX_TABLE_COLUMNS,
    RunNormalizer,
    _RunWriter,
    split_table,
    truncate_json_overflow,
)
from tiled.client.utils import handle_error, retry_context
from tiled.utils import safe_json_dump

from ._columns import PATCHES, ScalarColumn, as_numpy, cast, no_columns, plain_values, stacked

logger = logging.getLogger(__name__)

HDF5 = "application/x-hdf5"

ROUTE = "/custom/arrays"
"""Of the embedded server: see `sfdaq_ophyd.catalog.plugin`."""

TYPES = ("dtype_numpy", "dtype_str", "dtype_descr")
"""Where a data key may tell the type of its numbers; upstream takes those of other arrays for float."""

MANY = 16
"""External keys of a stream from which on its arrays are registered together, as many as have changed."""

MANY_AT_ONCE = 100
"""In one request, so that each is answered soon."""

MOST_CHUNKS = 64
MOST_PER_CHUNK = 2**26
"""Chunks along the points of an array from which on they are joined, and bytes that a joined one may have.

The server reads their list, stores it, and keeps it for those who watch, with each point."""


class RunWriter:
    """Callback for the documents of one run; what it holds back is written by :meth:`flush`."""

    def __init__(self, client):
        # Arrays in table cells come back as text, so every array gets a node of its own.
        self._writer = _FlushableWriter(client, batch_size=sys.maxsize, max_array_size=0)
        self._normalizer = RunNormalizer(patches=PATCHES)
        self._normalizer.subscribe(self._writer)

    def __call__(self, name: str, doc: dict) -> None:
        if name == "descriptor":
            keys = doc["data_keys"].items()
            self._writer.undeclared |= {key for key, spec in keys if not any(map(spec.get, TYPES))}
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
    It also takes the type of a column and the shape of an array from the first rows, and fails at a later row
    that has another: here columns have the declared type, and what does not fit costs its column alone.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._arrays: dict[str, _Array] = {}
        self._can_take_many = True
        self._columns: dict[str, dict[str, ScalarColumn]] = {}  # by stream and key
        self._schemas: dict[str, tuple[str, pyarrow.Schema]] = {}  # with the stream, by name of the table
        self._rewritten: set[str] = set()  # arrays whose rows have changed before
        self.undeclared: set[str] = set()  # keys that do not tell the type of their values
        self._unsigned = True  # whether tables take integers of 64 bits without a sign

    def _write_internal_data(self, data_cache, desc_node) -> None:
        stream = desc_node.item["id"]
        keys = [key for key in data_cache[0] if key not in ("seq_num", "time")]
        arrays = [key for key in keys if self.data_keys.get(key, {}).get("dtype") == "array"]
        for key in arrays:
            self._write_array(stream, key, desc_node, [row.get(key) for row in data_cache])
        columns = self._columns.setdefault(stream, {})
        table = {"seq_num": pyarrow.array([row["seq_num"] for row in data_cache], pyarrow.int64())}
        scalars = ["time", *(key for key in keys if key not in arrays)]
        apart = no_columns(["seq_num", *scalars])
        for key in scalars:
            values = [row.get(key) for row in data_cache]
            spec = self.data_keys.get(key, {"dtype": "number"})
            if key not in columns:
                columns[key] = ScalarColumn(spec, values, self._unsigned)
            table[key] = columns[key].array(values)
            if columns[key].misfits:  # the type that all values so far would have had from the first
                columns[key] = ScalarColumn(spec, [*self._earlier(stream, key), *values], self._unsigned)
                table[key] = columns[key].array(values)
            for misfit in columns[key].misfits:
                self._tell(stream, key, misfit)
            columns[key].misfits = []
            if columns[key].odd:
                self._note(f"{key} of stream {stream}: not every value fits {spec['dtype']}; it is text")
            if key in apart:
                self._write_apart(stream, key, desc_node, table.pop(key))
        self._append(stream, pyarrow.table(table), desc_node)

    def _write_apart(self, stream: str, key: str, desc_node, column: pyarrow.Array) -> None:
        """Append to an array of its own what has no place in a table."""
        if key in self.data_keys:
            self._note(f"{key} of stream {stream}: no table takes a column of this name; it is an array")
        self._put_rows(stream, key, desc_node, as_numpy(column))

    def _earlier(self, stream: str, key: str) -> list:
        """Return the values of a column that are in the catalog."""
        if (node := self._internal_arrays.get(f"{stream}/{key}")) is not None:
            return node.read().tolist()
        for name, (of, schema) in self._schemas.items():
            if of == stream and key in schema.names:
                return plain_values(self._internal_tables[name].read([key])[key])
        return []

    def _append(self, stream: str, table: pyarrow.Table, desc_node) -> None:
        wide = table.num_columns > MAX_TABLE_COLUMNS
        parts = list(split_table(table, MAX_TABLE_COLUMNS)) if wide else [table]
        for i, part in enumerate(parts):
            suffix = f"_{i}" if len(parts) > 1 else ""
            name = f"{stream}{suffix}"
            if name in self._schemas and self._schemas[name] != (stream, part.schema):
                part = self._with_earlier_rows(stream, self._internal_tables.pop(name).read(), part)
                desc_node.delete_contents(f"internal{suffix}", external_only=False)
            if name not in self._internal_tables:
                part = self._new_table(stream, name, f"internal{suffix}", part, desc_node)
                self._schemas[name] = stream, part.schema
            self._append_with_retry(self._internal_tables[name], part, stream)

    def _new_table(self, stream: str, name: str, key: str, part: pyarrow.Table, desc_node) -> pyarrow.Table:
        """Make the table of a part; return the part with the types that the server takes."""
        named = {key: spec for key, spec in self.data_keys.items() if key in part.column_names}

        def make(schema: pyarrow.Schema) -> None:
            self._internal_tables[name] = desc_node.create_appendable_table(
                schema=schema,
                key=key,
                metadata=truncate_json_overflow(named),
                access_tags=self.access_tags,
            )

        try:
            make(part.schema)
        except Exception:  # of SQLite and PostgreSQL there is no type for them
            if not (signed := self._signed(stream, part)):
                raise
            part, columns = signed
            make(part.schema)
            self._columns[stream].update(columns)
            self._unsigned = False
        return part

    def _signed(
        self, stream: str, part: pyarrow.Table
    ) -> tuple[pyarrow.Table, dict[str, ScalarColumn]] | None:
        """Return `part` and its columns without unsigned ones; None if there are none."""
        columns = {}
        for i, name in enumerate(part.column_names):
            if part.schema.types[i] == pyarrow.uint64():
                values, spec = part[name].to_pylist(), self.data_keys[name]
                column = columns[name] = ScalarColumn(spec, values, unsigned=False)
                part = part.set_column(i, name, column.array(values))
                if column.odd:
                    self._note(f"{name} of stream {stream}: not every value fits {spec['dtype']}; it is text")
        return (part, columns) if columns else None

    def _with_earlier_rows(self, stream: str, before, part: pyarrow.Table) -> pyarrow.Table:
        """Return the rows of a table whose columns got other types, and the new ones."""
        columns = {"seq_num": ScalarColumn({"dtype": "integer"}, []), **self._columns[stream]}
        columns["seq_num"].type = pyarrow.int64()
        earlier = {name: columns[name].array(plain_values(before[name])) for name in part.column_names}
        return pyarrow.concat_tables([pyarrow.table(earlier), part]).combine_chunks()

    def _write_array(self, stream: str, key: str, desc_node, values: list) -> None:
        """Append one row per event; where these have another shape or type, write all rows anew."""
        node = self._internal_arrays.get(f"{stream}/{key}")
        ndim, text = (None, False) if node is None else (len(node.shape) - 1, node.dtype.kind == "U")
        block, misfit, padded, is_text = stacked(values, ndim, text)
        if misfit is not None:
            self._tell(stream, key, misfit)
        if is_text:
            self._tell_text(stream, key)
        if padded or node is not None and block.shape[1:] != node.shape[1:]:
            self._note(f"{key} of stream {stream} changes its length; short ones are padded")
        self._put_rows(stream, key, desc_node, block)

    def _put_rows(self, stream: str, key: str, desc_node, block: np.ndarray) -> None:
        node = self._internal_arrays.get(f"{stream}/{key}")
        metadata = truncate_json_overflow(self.data_keys.get(key, {}))
        if node is not None:
            fitting = cast(block, node.dtype) if block.shape[1:] == node.shape[1:] else None
            if fitting is not None:
                node.patch(fitting, offset=node.shape[:1], extend=True)
                return
            if block.ndim == 1:
                block = self._one_type(node.read(), block)
            else:
                block = self._with_earlier(stream, key, node.read(), block)
            desc_node.delete_contents(key, external_only=False)
        elif block.ndim == 1 or key not in self.undeclared:  # an array has the type that comes
            declared = cast(block, metadata.get("dtype_numpy") or None)
            block = block if declared is None else declared
        self._internal_arrays[f"{stream}/{key}"] = desc_node.write_array(
            block,
            key=key,
            metadata={**metadata, "dtype_numpy": str(block.dtype)},
            dims=self._internal_dims(stream, block.shape),
            access_tags=self.access_tags,
        )

    @staticmethod
    def _one_type(before: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Join the rows of a column of its own."""
        both = before, block
        if any(each.dtype.kind == "U" for each in both):
            return np.concatenate([each.astype("U") if each.dtype.kind != "U" else each for each in both])
        if all(each.dtype.kind in "iu" for each in both):  # the type of the block was chosen for all rows
            before = before.astype(block.dtype)
        return np.concatenate([before, block])

    def _with_earlier(self, stream: str, key: str, before: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Join the rows of an array that changed; if that goes on, leave room for more."""
        name, last = f"{stream}/{key}", block.shape[-1]
        rows, _, _, is_text = stacked([*before, *block], before.ndim - 1)
        if is_text:
            self._tell_text(stream, key)
        if name in self._rewritten and last > before.shape[-1]:
            room = [(0, 0)] * (rows.ndim - 1) + [(0, (1 << (last - 1).bit_length()) - last)]
            rows = np.pad(rows, room, constant_values="" if rows.dtype.kind == "U" else np.nan)
        self._rewritten.add(name)
        return rows

    def _tell(self, stream: str, key: str, misfit: object) -> None:
        spec = self.data_keys.get(key, {})
        self._note(f"{key} of stream {stream}: a value does not fit {spec.get('dtype')} and is missing there")
        logger.info("%s of stream %s: %.200r does not fit", key, stream, misfit)

    def _tell_text(self, stream: str, key: str) -> None:
        self._note(f"{key} of stream {stream}: no type of numbers holds all its values exactly; it is text")

    def _note(self, what: str) -> None:
        if what not in self.notes:
            self.notes.append(what)
            logger.warning("%s", what)

    def stop(self, doc) -> None:
        self.flush()
        super().stop(doc)

    def flush(self) -> None:
        for stream, rows in self._internal_data_cache.items():
            if rows:
                self._write_internal_data(rows, desc_node=self._desc_nodes[stream])
                rows.clear()
        datums = list(self._external_data_cache.values())
        self._external_data_cache.clear()
        self._register(datums)

    def _write_external_data(self, doc) -> None:
        self._register([doc])

    def _register(self, datums: list[dict]) -> None:
        """Register external data: by one request per array, or by a few where there are many."""
        patches, streams = defaultdict(list), defaultdict(list)
        for datum in datums:
            array, patch = self._consume(datum)
            patches[array].append(patch)
        for array in patches:
            streams[array.stream.uri].append(array)
        for arrays in streams.values():
            keys = arrays[0].stream.metadata["data_keys"].values()
            many = sum("external" in key for key in keys) >= MANY
            if many and self._can_take_many:
                self._can_take_many = self._put_many(arrays)
            if not (many and self._can_take_many):
                for array in arrays:
                    self._put(array, None if many else Patch.combine_patches(patches[array]))

    def _consume(self, datum: dict) -> tuple[_Array, Patch]:
        resource = self._stream_resource_cache[datum["stream_resource"]]
        node = self._desc_nodes[datum["descriptor"]]
        name = f"{node.item['id']}_{resource['data_key']}"
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = _Array(node, name, consolidator_factory(resource, node.metadata))
            self._consolidators[name] = array.consolidator
        elif resource["uid"] not in array.rows:
            array.consolidator.update_from_stream_resource(resource)
        indices = datum["indices"]
        start, _ = array.rows.get(resource["uid"], (indices["start"], 0))
        array.rows[resource["uid"]] = (start, indices["stop"])
        return array, array.consolidator.consume_stream_datum(datum)

    def _put(self, array: _Array, patch: Patch | None) -> None:
        """Create or update one array; those who watch it are told of `patch`."""
        node, key = self._sres_nodes.get(array.name), array.consolidator.data_key
        if node is None and array.registered:
            node = self._sres_nodes[array.name] = array.stream[key]
        elif node is None:
            source = array.source()
            node = self._sres_nodes[array.name] = array.stream.new(
                key=key,
                structure_family=source.structure_family,
                data_sources=[source],
                metadata={},
                specs=[],
                access_tags=self.access_tags,
            )
            array.has_sent()
            if patch is None:
                return
        self._update_data_source_for_node(node, array.source(), patch)
        array.has_sent()

    def _put_many(self, arrays: list[_Array]) -> bool:
        """Create or update the arrays of one stream together; False if the server has no such route."""
        client, stream = arrays[0].stream.context.http_client, arrays[0].stream
        url = stream.uri.replace("/api/v1/metadata/", f"{ROUTE}/", 1)
        for first in range(0, len(arrays), MANY_AT_ONCE):
            some = arrays[first : first + MANY_AT_ONCE]
            body = safe_json_dump([array.described(self.access_tags) for array in some])
            for attempt in retry_context():
                with attempt:
                    answer = client.put(url, content=body)
                    if answer.status_code in (403, 404, 405) and first == 0:
                        return False
                    handle_error(answer)
            for array in some:
                array.registered = True
                array.has_sent()
        return True


@dataclass(eq=False)
class _Array:
    """External data of one key of a stream."""

    stream: Any
    name: str
    consolidator: ConsolidatorBase
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Points of each file, by its resource, in the order of the assets."""
    registered: bool = False
    """Whether it was, together with others."""
    n_sent: int = 0
    """Files that the server knows: it adds those it is told of, and looks up each."""

    def has_sent(self) -> None:
        """Note that the server knows all files there are."""
        self.n_sent = len(self.consolidator.assets)

    def source(self):
        """Return what the server is to know, without the files that it knows."""
        source = self.consolidator.get_data_source()
        source.assets = source.assets[self.n_sent :]
        if source.mimetype == HDF5:
            same = groupby(self.rows.values())
            source.properties["rows"] = [[*rows, sum(1 for _ in files)] for rows, files in same]
            source.structure = joined(source.structure)
        return source

    def described(self, access_tags) -> dict:
        """Return the item of a request for many."""
        source = self.source()
        return {
            "id": self.consolidator.data_key,
            "structure_family": source.structure_family,
            "metadata": self.consolidator.metadata,
            "data_sources": [asdict(source)],
            "access_tags": access_tags,
        }


def joined(structure):
    """Return the structure of an array with a number of chunks that does not grow with its points."""
    along, *across = structure.chunks
    n_bytes = max(along, default=0) * math.prod(structure.shape[1:]) * structure.data_type.itemsize
    n = 1
    while len(along) >= MOST_CHUNKS * n and 2 * n * n_bytes <= MOST_PER_CHUNK:
        n *= 2
    along = tuple(sum(along[first : first + n]) for first in range(0, len(along), n))
    return replace(structure, chunks=(along, *across))

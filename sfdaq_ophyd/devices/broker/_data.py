"""Checked files as documents: one stream per run, one row per acquisition, row k for event k."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from .._assets import FileAssets
from ._run_table import COMPLETE, REGISTERED, RunTable

_SCALARS = ("acquisition_number", "start_pulse_id", "stop_pulse_id")


def key_of(name: str, what: str) -> str:
    """Return a data key; characters that have a meaning in the catalog become ``_``."""
    return f"{name}_{re.sub(r'[./]', '_', what)}"


def is_gap_free(row: dict[str, Any]) -> bool:
    """Say whether every file of an acquisition holds every frame asked for, or was told to leave some out."""
    return all(found.get("n_got") == found.get("n_asked") or found["filtered"] for found in arrays(row))


def arrays(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the datasets of an acquisition, by name: files come in any order."""
    return sorted(row.get("found", ()), key=lambda one: one["key"])


def data_streams(name: str, table: RunTable) -> list[tuple[str, DataRows | UnusedRows]]:
    """Return what is to be collected at the end of a run: stream names and flyers.

    Acquisitions whose event was read and whose files are whole come in ``NAME_data``; a second shape, after
    a change of settings, in ``NAME_data_2``; everything else that was asked for in ``NAME_unused``.
    """
    rows = [row for row in table.rows() if not row["registered"] and "files" in row]
    good = [row for row in rows if row["state"] == COMPLETE and row["read"] and is_gap_free(row)]
    groups: dict[str, list[dict]] = {}
    for row in good:
        groups.setdefault(repr(_signature(row)), []).append(row)
    streams: list[tuple[str, Any]] = []
    for number, group in enumerate(groups.values(), 1):
        stream = f"{name}_data" if number == 1 else f"{name}_data_{number}"
        streams.append((stream, DataRows(stream, name, group, table)))
    unused = [row for row in rows if row not in good]
    if unused:
        streams.append((f"{name}_unused", UnusedRows(f"{name}_unused", name, unused, table)))
    return streams


def _signature(row: dict[str, Any]) -> list[tuple]:
    same = ("key", "n_asked", "shape", "dtype", "dataset", "ids", "ids_shape", "ids_dtype")
    return [tuple(found[name] for name in same) for found in arrays(row)]


class _Columns(ABC):
    """A flyer that has flown: rows that are there, to be collected once."""

    parent = None

    def __init__(self, stream: str, device: str):
        self.name, self._device = stream, device

    def collect_pages(self) -> Iterator[dict]:
        """Yield all rows."""
        yield from self.pages()

    def pages(self) -> Iterator[dict]:
        """Yield all rows as partial event pages."""
        now, data = time.time(), self._columns()
        n_rows = len(next(iter(data.values())))
        yield {"time": [now] * n_rows, "data": data, "timestamps": {key: [now] * n_rows for key in data}}

    @abstractmethod
    def describe_collect(self) -> dict:
        """Return the data keys."""

    @abstractmethod
    def _columns(self) -> dict[str, list]:
        """Return the value of each key, row by row."""

    def _integer(self) -> dict:
        return {"source": f"broker:{self._device}", "dtype": "integer", "dtype_numpy": "<i8", "shape": []}

    def _text(self) -> dict:
        return {"source": f"broker:{self._device}", "dtype": "string", "shape": []}


class TextRow(_Columns):
    """One row of texts."""

    def __init__(self, stream: str, device: str, texts: dict[str, str]):
        super().__init__(stream, device)
        self._texts = {key_of(device, name): text for name, text in texts.items()}

    def describe_collect(self) -> dict:
        """Return the data keys."""
        return {key: self._text() for key in self._texts}

    def _columns(self) -> dict[str, list]:
        return {key: [text] for key, text in self._texts.items()}


class _Rows(_Columns):
    """Acquisitions of a run table; it notes that they are in the documents."""

    def __init__(self, stream: str, device: str, rows: list[dict[str, Any]], table: RunTable):
        super().__init__(stream, device)
        self._rows, self._table = rows, table

    def collect_pages(self) -> Iterator[dict]:
        """Yield all rows, and note that they are in the documents."""
        yield from self.pages()
        self.note_registered()

    def note_registered(self) -> None:
        """Note that these rows are in the documents."""
        for row in self._rows:
            self._table.write(REGISTERED, row["index"])

    def collect_asset_docs(self) -> Iterator[tuple[str, dict]]:
        """Yield the documents of external data."""
        yield from ()


class DataRows(_Rows):
    """Acquisitions with their data: external, from the DAQ's own files."""

    def describe_collect(self) -> dict:
        """Return the data keys: numbers, and per dataset the data, the pulse ids and the count."""
        keys = {key_of(self._device, scalar): self._integer() for scalar in _SCALARS}
        for found in arrays(self._rows[0]):
            key, n = key_of(self._device, found["key"]), found["n_asked"]
            keys[key] = {
                "source": f"broker:{self._device}",
                "dtype": "array",
                "dtype_numpy": found["dtype"],
                "shape": [n, *found["shape"]],
                "external": "STREAM:",
            }
            keys[f"{key}_pulse_id"] = {
                "source": f"broker:{self._device}",
                "dtype": "array",
                "dtype_numpy": found["ids_dtype"],
                "shape": [n, *found["ids_shape"]],
                "external": "STREAM:",
            }
            keys[f"{key}_n_frames"] = self._integer()
        return keys

    def collect_asset_docs(self) -> Iterator[tuple[str, dict]]:
        """Yield a resource and a datum per dataset and acquisition."""
        for row in self._rows:
            for found in arrays(row):
                key, n, shape = key_of(self._device, found["key"]), found["n_asked"], found["shape"]
                images = {"dataset": found["dataset"], "chunk_shape": (1, n, *shape), "join_method": "stack"}
                ids = {"dataset": found["ids"], "chunk_shape": (1, n), "join_method": "stack"}
                yield from FileAssets(found["path"], {key: images, f"{key}_pulse_id": ids}).documents(0, 1)

    def _columns(self) -> dict[str, list]:
        columns = {key_of(self._device, scalar): [row[scalar] for row in self._rows] for scalar in _SCALARS}
        for number, found in enumerate(arrays(self._rows[0])):
            key = f"{key_of(self._device, found['key'])}_n_frames"
            columns[key] = [arrays(row)[number]["n_got"] for row in self._rows]
        return columns


class UnusedRows(_Rows):
    """Acquisitions that were asked for and have no data here: given up, failed, or not written yet."""

    def describe_collect(self) -> dict:
        """Return the data keys: numbers, state, what is known, and the files, one per line."""
        keys = {key_of(self._device, scalar): self._integer() for scalar in _SCALARS}
        texts = ("state", "detail", "file_list")
        return keys | {key_of(self._device, text): self._text() for text in texts}

    def _columns(self) -> dict[str, list]:
        device = self._device
        return {
            **{key_of(device, scalar): [row.get(scalar, 0) for row in self._rows] for scalar in _SCALARS},
            key_of(device, "state"): [row["state"] for row in self._rows],
            key_of(device, "detail"): [_detail(row) for row in self._rows],
            key_of(device, "file_list"): ["\n".join(row["files"]) for row in self._rows],
        }


def _detail(row: dict[str, Any]) -> str:
    failures = [f"{path}: {reason}" for path, reason in row.get("failures", {}).items()]
    lost = [
        f"{found['key']}: {found['n_got']} of {found['n_asked']} frames"
        for found in arrays(row)
        if found["n_got"] < found["n_asked"]
    ]
    return "; ".join([*failures, *lost]) or row.get("reason", "")

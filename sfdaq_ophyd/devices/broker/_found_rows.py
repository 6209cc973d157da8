"""What a file holds, as facts for the run table: compared with the pulses and names that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FileFormatError
from ...files.daq_file import BSDATA, CAMERAS, PVDATA, TEXT, FoundData, read_texts
from ...files.held_values import write_aligned, write_held

if TYPE_CHECKING:
    from ._follower import Announced

MISSING_SHOWN = 100


def found_rows(
    announced: Announced, source: str, path: Path, found: Sequence[FoundData]
) -> list[dict[str, Any]]:
    """Return the facts about each dataset of a file.

    Rows that are not the pulses asked for, one by one, are shown by a small file in ``announced.aligned``;
    so are PVs. Of a channel that was asked for and cannot be had, the fact is why: ``absent``.
    """
    names = announced.names.get(source, ())
    if source == PVDATA:
        names = _pvs(announced)
        found = write_held(announced.aligned / path.name, path, found, names, announced.asked)
    rows = [_row(announced, source, path, one) for one in found]
    there = {one.key for one in found}
    return rows + [absent(source, name, "is not in the file") for name in names if name not in there]


def absent(source: str, key: str, why: str) -> dict[str, Any]:
    """Return the fact that a channel cannot be had."""
    return {"source": source, "key": key, "absent": why}


def _pvs(announced: Announced) -> list[str]:
    """Return the PVs asked for; a name that is a channel too is the channel's."""
    channels = {name for source in (BSDATA, CAMERAS) for name in announced.names.get(source, ())}
    return [name for name in announced.names.get(PVDATA, ()) if name not in channels]


def _row(announced: Announced, source: str, path: Path, data: FoundData) -> dict[str, Any]:
    if data.problem:
        return absent(source, data.key, data.problem)
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
            return absent(source, data.key, f"holds {exc.found}")
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

"""What a file holds, as facts for the run table: compared with the pulses and names that were asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files.aligned_file import write_aligned
from ...files.daq_file import BSDATA, CAMERAS, PVDATA, FoundData
from ...files.held_values import write_held

if TYPE_CHECKING:
    from ._follower import Announced

logger = logging.getLogger(__name__)

MISSING_SHOWN = 100


def found_rows(
    announced: Announced, source: str, path: Path, found: Sequence[FoundData]
) -> list[dict[str, Any]]:
    """Return the facts about each dataset of a file.

    Rows that are not the pulses asked for, one by one, are shown by a small file in ``announced.aligned``;
    so are PVs.
    """
    names = announced.names.get(source, ())
    if source == PVDATA:
        return list(_pvs(announced, path, found, names))
    absent = set(names) - {one.key for one in found}
    if absent:
        logger.warning("%s: no data of %s", path, ", ".join(sorted(absent)))
    return [_row(announced, source, path, one) for one in found]


def _pvs(
    announced: Announced, path: Path, found: Sequence[FoundData], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """PVs never fail a run: where a value is not known, it is NaN."""
    channels = {name for source in (BSDATA, CAMERAS) for name in announced.names.get(source, ())}
    view = announced.aligned / path.name
    asked = announced.asked
    for one in write_held(view, path, found, [name for name in names if name not in channels], asked):
        yield _facts(one, PVDATA, view, asked, True) | {"origin": str(path)}


def _row(announced: Announced, source: str, path: Path, data: FoundData) -> dict[str, Any]:
    row = _facts(data, source, path, announced.asked, announced.gaps.get(source, False))
    if not data.in_rows(announced.asked):
        view = announced.aligned / path.name.replace(source, data.key.replace("/", "_"))
        write_aligned(view, path, data, announced.asked)
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

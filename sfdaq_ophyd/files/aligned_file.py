"""A small file that shows another's rows pulse by pulse: one row per pulse asked, gaps marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from .daq_file import FoundData


def write_aligned(path: str | Path, source: str | Path, found: FoundData, asked: Sequence[int]) -> None:
    """Write a view of `found` in which row k is pulse ``asked[k]``; no pixel is copied.

    The datasets have the names they have in the source. Where there is no frame, the pulse id is 0 and the
    data are NaN, or 0 where they are integers.

    Parameters
    ----------
    path : str or Path
        The new file.
    source : str or Path
        Where `found` lies; must stay there.
    asked : sequence of int
        Ascending pulse ids.
    """
    path, asked = Path(path), np.asarray(asked, "i8")
    path.parent.mkdir(parents=True, exist_ok=True)
    order = np.argsort(found.pulse_ids, kind="stable")
    at = np.searchsorted(found.pulse_ids[order], asked).clip(max=max(0, len(order) - 1))
    rows = order[at] if len(order) else np.zeros(len(asked), "i8")
    there = found.pulse_ids[rows] == asked if len(order) else np.zeros(len(asked), bool)
    dtype = np.dtype(found.dtype)
    layout = h5py.VirtualLayout((len(asked), *found.shape), dtype)
    origin = h5py.VirtualSource(
        str(Path(source).absolute()), found.dataset, (len(found.pulse_ids), *found.shape), dtype
    )
    for first, last in _runs(rows, there):
        layout[first:last] = origin[int(rows[first]) : int(rows[last - 1]) + 1]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset(found.dataset, layout, fillvalue=np.nan if dtype.kind == "f" else 0)
        ids = np.where(there, asked, 0).astype(found.ids_dtype)
        file[found.ids] = ids.reshape(len(asked), *found.ids_shape)


def _runs(rows: np.ndarray, there: np.ndarray):
    """Yield (first, last + 1) of stretches in which consecutive pulses lie in consecutive rows."""
    k = 0
    while k < len(rows):
        if not there[k]:
            k += 1
            continue
        first = k
        while k + 1 < len(rows) and there[k + 1] and rows[k + 1] == rows[k] + 1:
            k += 1
        k += 1
        yield first, k

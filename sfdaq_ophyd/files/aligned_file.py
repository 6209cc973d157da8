"""A small file that shows another's rows pulse by pulse: one row per pulse asked, gaps marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ._late import h5py
from .daq_file import TEXT, FoundData


def write_aligned(path: str | Path, source: str | Path, found: FoundData, asked: Sequence[int]) -> None:
    """Write a view of `found` in which row k is pulse ``asked[k]``; no pixel is copied.

    The datasets have the names they have in the source. Where there is no frame, the pulse id is 0 and the
    data are NaN, or 0 where they are integers. Texts are not shown, only their pulse ids.

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
    with h5py.File(path, "w") as file:
        if found.dtype != TEXT:
            _show(file, Path(source).absolute(), found, rows, there)
        ids = np.where(there, asked, 0).astype(found.ids_dtype)
        file[found.ids] = ids.reshape(len(asked), *found.ids_shape)


def write_empty(
    path: str | Path, dataset: str, shape: Sequence[int], dtype: str, ids: tuple[str, Sequence[int], str]
) -> None:
    """Write the view of a channel that is not there: no pulse id, and data of NaN or 0.

    Parameters
    ----------
    path : str or Path
        The new file.
    dataset : str
        Of the data.
    shape : sequence of int
        Of all rows.
    dtype : str
        numpy's name, or `TEXT` for none.
    ids : tuple
        Dataset, shape and dtype of the pulse ids.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        if dtype != TEXT:
            file.create_dataset(dataset, tuple(shape), dtype, fillvalue=_nothing(np.dtype(dtype)))
        file.create_dataset(ids[0], tuple(ids[1]), ids[2])


def _show(file: h5py.File, source: Path, found: FoundData, rows: np.ndarray, there: np.ndarray) -> None:
    dtype = np.dtype(found.dtype)
    layout = h5py.VirtualLayout((len(rows), *found.shape), dtype)
    origin = h5py.VirtualSource(str(source), found.dataset, (len(found.pulse_ids), *found.shape), dtype)
    for first, last in _runs(rows, there):
        layout[first:last] = origin[int(rows[first]) : int(rows[last - 1]) + 1]
    file.create_virtual_dataset(found.dataset, layout, fillvalue=_nothing(dtype))


def _nothing(dtype: np.dtype) -> float:
    return np.nan if dtype.kind in "fc" else 0


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

"""What each PV held at each pulse, out of PVDATA's changes (wire reference sf-daq-broker, section 6.4)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import FileFormatError
from ._hdf5 import h5py
from .daq_file import TEXT, FoundData, check_length, texts_of
from .joined_images import Images, join_images, nothing, pieces
from .storage import new_hdf5


def write_columns(path: str | Path, columns: Mapping[str, Sequence[int]]) -> None:
    """Write columns of integers as datasets of int64; StorageError if the file cannot be written."""
    with new_hdf5(path, libver="latest") as file:
        for name, values in columns.items():
            file[name] = np.asarray(values, "i8")


def write_aligned(path: str | Path, source: str | Path, found: FoundData, asked: Sequence[int]) -> None:
    """Write a view of `found` in which row k is pulse ``asked[k]``; no pixel is copied.

    The datasets have the names they have in the source. Where there is no frame, the pulse id is 0 and the
    data are NaN, or 0 where they are integers. Texts are not shown, only their pulse ids.

    The file of `source`, where `found` lies, must stay there; the pulse ids of `asked` ascend.
    """
    pulses = np.asarray(asked, "i8")
    order = np.argsort(found.pulse_ids, kind="stable")
    at = np.searchsorted(found.pulse_ids[order], pulses).clip(max=max(0, len(order) - 1))
    rows = order[at] if len(order) else np.zeros(len(pulses), "i8")
    there = found.pulse_ids[rows] == pulses if len(order) else np.zeros(len(pulses), bool)
    ids = np.where(there, pulses, 0).astype(found.ids_dtype).reshape(len(pulses), *found.ids_shape)
    if found.dtype == TEXT:
        with new_hdf5(path) as file:
            file[found.ids] = ids
        return
    images = Images(str(Path(source).absolute()), found.dataset, len(found.pulse_ids))
    shown = pieces((images, row) if here else None for row, here in zip(rows.tolist(), there))
    join_images(path, found.dataset, shown, (len(pulses), *found.shape), found.dtype, {found.ids: ids})


def write_empty(
    path: str | Path, dataset: str, shape: Sequence[int], dtype: str, ids: tuple[str, Sequence[int], str]
) -> None:
    """Write the view of a channel that is not there: no pulse id, and data of NaN or 0, or none of `TEXT`.

    The shapes are those of all rows; `ids` are dataset, shape and dtype of the pulse ids.
    """
    with new_hdf5(path) as file:
        if dtype != TEXT:
            file.create_dataset(dataset, tuple(shape), dtype, fillvalue=nothing(np.dtype(dtype)))
        file.create_dataset(ids[0], tuple(ids[1]), ids[2])


MAX_BYTES = 2**26
"""Of one PV; a waveform that would need more stays in the DAQ's file."""


def held_rows(
    pulse_ids: npt.NDArray[np.integer], connected: npt.NDArray[np.bool_], asked: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """Return the row with the value held at each pulse.

    Parameters
    ----------
    pulse_ids : ndarray of int, shape (n,)
        Pulse of each change, in the order of time; 0 where the DAQ knows none. One 0 at the beginning is the
        last change before the range, whose value holds at its start.
    connected : ndarray of bool, shape (n,)
    asked : array_like of int
        Pulse ids.

    Returns
    -------
    rows : ndarray of int64, shape (len(asked),)
        The last change at or before each pulse; -1 where the value is not known: before the first change,
        while disconnected, and from another change without pulse id until the next with one.

    Examples
    --------
    >>> held_rows(np.array([100, 0, 120]), np.ones(3, bool), [99, 100, 101, 120, 130]).tolist()
    [-1, 0, -1, 2, 2]
    >>> held_rows(np.array([0, 110]), np.ones(2, bool), [100, 109, 110]).tolist()
    [0, 0, 1]
    """
    pulses = np.asarray(asked, "i8")
    if pulse_ids[:1].tolist() == [0]:
        pulse_ids = np.append(-1, pulse_ids[1:])  # before every pulse
    mapped = np.flatnonzero(pulse_ids)
    mapped = mapped[np.argsort(pulse_ids[mapped], kind="stable")]
    at = np.searchsorted(pulse_ids[mapped], pulses, side="right") - 1
    rows = np.where(at >= 0, np.append(mapped, -1)[at], -1)
    followed = np.append(pulse_ids, 1)[rows + 1] == 0
    unknown = ~np.append(connected, False)[rows] | (followed & (pulses > np.append(pulse_ids, 0)[rows]))
    return np.where(unknown, -1, rows)


def write_held(
    path: str | Path,
    source: str | Path,
    found: Sequence[FoundData],
    names: Sequence[str],
    asked: Sequence[int],
) -> list[FoundData]:
    """Write a file with one row per pulse and PV: the value held, or NaN; of texts, the text or none.

    Parameters
    ----------
    path : str or Path
        The new file.
    source, found
        The PVDATA file, and what is in it.
    names, asked
        PVs that were asked for, and ascending pulse ids.

    Returns
    -------
    list of FoundData
        One per name. What the new file holds: float64, or texts; the pulse id is 0 where the value is not
        known. A PV that it does not hold has a `problem`.
    """
    pulses = np.asarray(asked, "i8")
    with h5py.File(source, "r", locking=False) as daq, new_hdf5(path) as file:
        return list(_held(daq, file, {one.key: one for one in found}, names, pulses))


def _held(
    daq: h5py.File,
    file: h5py.File,
    found: dict[str, FoundData],
    names: Sequence[str],
    asked: npt.NDArray[np.int64],
) -> Iterator[FoundData]:
    for name in names:
        pv = found.get(name) or _left_out(name, "is not in the file")
        n_rows = max(len(asked), len(pv.pulse_ids))
        if not pv.problem and 8 * n_rows * math.prod(pv.shape) > MAX_BYTES:
            pv = _left_out(name, f"is larger than {MAX_BYTES} bytes; see the DAQ's file")
        try:
            yield pv if pv.problem else _held_pv(daq, file, pv, asked)
        except FileFormatError as exc:
            yield _left_out(name, f"holds {exc.found}")


def _held_pv(daq: h5py.File, file: h5py.File, pv: FoundData, asked: npt.NDArray[np.int64]) -> FoundData:
    text, data = pv.dtype == TEXT, daq[pv.dataset]
    values = np.array(texts_of(data), object) if text else data[()].astype("f8")
    values = values.reshape(-1, *(() if text or pv.shape == (1,) else pv.shape))
    connected = data.parent.get("connected")
    there = np.ones(len(values), bool) if connected is None else connected[()].reshape(-1) != 0
    rows = held_rows(pv.pulse_ids, there, asked)
    known = rows >= 0
    if text:
        check_length(data, sum(len(values[row]) for row in rows[known]))
    held = np.full((len(asked), *values.shape[1:]), "" if text else np.nan, values.dtype)
    held[known] = values[rows[known]]
    ids = np.where(known, asked, 0)
    group = file.create_group(f"data/{pv.key}")
    group["data"], group["pulse_id"] = held, ids
    dtype = TEXT if text else held.dtype.str
    return FoundData(pv.key, group["data"].name, held.shape[1:], dtype, ids, group["pulse_id"].name)


def _left_out(name: str, why: str) -> FoundData:
    return FoundData(name, "", (), "", np.zeros(0, "i8"), "", problem=why)

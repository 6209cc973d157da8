"""PVs pulse by pulse: the value each one held, out of the few changes that PVDATA has (contract 6.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from .daq_file import FoundData

MAX_BYTES = 2**26
"""Of one PV; a waveform that would need more stays in the DAQ's file."""


def held_rows(pulse_ids: np.ndarray, connected: np.ndarray, asked: Sequence[int]) -> np.ndarray:
    """Return the row with the value held at each pulse.

    Parameters
    ----------
    pulse_ids : ndarray of int, shape (n,)
        Pulse of each change, in the order of time; 0 where the DAQ knows none.
    connected : ndarray of bool, shape (n,)
    asked : sequence of int
        Pulse ids.

    Returns
    -------
    rows : ndarray of int64, shape (len(asked),)
        The last change at or before each pulse; -1 where the value is not known: before the first change,
        while disconnected, and from a change without pulse id until the next with one.

    Examples
    --------
    >>> held_rows(np.array([100, 0, 120]), np.ones(3, bool), [99, 100, 101, 120, 130]).tolist()
    [-1, 0, -1, 2, 2]
    """
    asked = np.asarray(asked, "i8")
    mapped = np.flatnonzero(pulse_ids)
    mapped = mapped[np.argsort(pulse_ids[mapped], kind="stable")]
    at = np.searchsorted(pulse_ids[mapped], asked, side="right") - 1
    rows = np.where(at >= 0, np.append(mapped, -1)[at], -1)
    followed = np.append(pulse_ids, 1)[rows + 1] == 0
    unknown = ~np.append(connected, False)[rows] | (followed & (asked > np.append(pulse_ids, 0)[rows]))
    return np.where(unknown, -1, rows)


def write_held(
    path: str | Path,
    source: str | Path,
    found: Sequence[FoundData],
    names: Sequence[str],
    asked: Sequence[int],
) -> list[FoundData]:
    """Write a file with one row per pulse and PV: the value held, or NaN.

    Numbers only: texts stay in the DAQ's file.

    Parameters
    ----------
    path : str or Path
        The new file.
    source : str or Path
        The PVDATA file.
    found : sequence of FoundData
        What is in it.
    names : sequence of str
        PVs that were asked for; one that is not in the file is NaN throughout.
    asked : sequence of int
        Ascending pulse ids.

    Returns
    -------
    list of FoundData
        What the new file holds: float64; the pulse id is 0 where the value is not known.
    """
    path, asked = Path(path), np.asarray(asked, "i8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(source, "r", locking=False) as daq, h5py.File(path, "w") as file:
        return list(_held(daq, file, {one.key: one for one in found}, names, asked))


def _held(
    daq: h5py.File, file: h5py.File, found: dict[str, FoundData], names: Sequence[str], asked: np.ndarray
) -> Iterator[FoundData]:
    for name in names:
        values, rows = np.full(1, np.nan), np.full(len(asked), -1)
        if name in found:
            pv = found[name]
            shape = () if pv.shape == (1,) else pv.shape
            size = 8 * len(asked) * int(np.prod(shape, dtype="i8"))
            if np.dtype(pv.dtype).kind not in "biuf" or size > MAX_BYTES:
                continue
            values = daq[pv.dataset][()].astype("f8").reshape(-1, *shape)
            connected = daq[pv.dataset].parent.get("connected")
            there = np.ones(len(values), bool) if connected is None else connected[()].reshape(-1) != 0
            rows = held_rows(pv.pulse_ids, there, asked)
        known = rows >= 0
        held = np.full((len(asked), *values.shape[1:]), np.nan)
        held[known] = values[rows[known]]
        ids = np.where(known, asked, 0)
        group = file.create_group(f"data/{name}")
        group["data"], group["pulse_id"] = held, ids
        data = group["data"]
        yield FoundData(name, data.name, held.shape[1:], data.dtype.str, ids, group["pulse_id"].name)

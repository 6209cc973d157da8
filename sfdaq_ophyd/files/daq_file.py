"""Files that the DAQ writes for an acquisition, pulse by pulse (contract sections 4.4, 13)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the filters of compressed files
import numpy as np

from ..errors import FileFormatError

PVDATA, BSDATA, CAMERAS = "PVDATA", "BSDATA", "CAMERAS"
"""Sources that are not detectors, as in the names of files."""


@dataclass(frozen=True, slots=True)
class FoundData:
    """One dataset of a file.

    Parameters
    ----------
    key : str
        Detector, region (``JF01T03V01:ROI_spot``), channel, camera or PV.
    dataset : str
        Path inside the file; its first axis is rows.
    shape : tuple of int
        Of one row.
    dtype : str
        numpy's name.
    pulse_ids : ndarray of int64
        One per row; 0 where a row holds no frame.
    ids : str
        Path of the dataset with the pulse ids.
    ids_shape : tuple of int
        Of one row of it: () or (1,).
    ids_dtype : str
    """

    key: str
    dataset: str
    shape: tuple[int, ...]
    dtype: str
    pulse_ids: np.ndarray
    ids: str
    ids_shape: tuple[int, ...] = ()
    ids_dtype: str = "<i8"

    def missing(self, asked: Sequence[int]) -> np.ndarray:
        """Return the pulses of `asked` that have no row, ascending."""
        return np.setdiff1d(np.asarray(asked, "i8"), self.pulse_ids)

    def in_rows(self, asked: Sequence[int]) -> bool:
        """Say whether the rows are exactly the pulses of `asked`, in order."""
        return np.array_equal(self.pulse_ids, np.asarray(asked, "i8"))


def read_daq_file(path: str | Path, source: str, names: Sequence[str] = ()) -> list[FoundData]:
    """Look into a file of one acquisition.

    Parameters
    ----------
    path : str or Path
    source : str
        ``PVDATA``, ``BSDATA``, ``CAMERAS``, or a detector's name.
    names : sequence of str
        Channels that must be in it.

    Raises
    ------
    OSError
        It is not there, not readable yet, or damaged.
    FileFormatError
        It is readable, and not such a file, or one of `names` is not in it.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # a lock could make the writer fail
            found = list(_detector(file, source) if source[:2] == "JF" else _channels(file))
    except FileFormatError:
        raise
    except (RuntimeError, KeyError, ValueError) as exc:  # h5py's words for a file that ends too early
        raise OSError(f"{path}: {exc}") from exc
    if not found:
        raise FileFormatError(path, "data", found="nothing", expected=f"data of {source}")
    absent = set(names) - {one.key for one in found}
    if absent:
        raise FileFormatError(path, ", ".join(sorted(absent)), found="nothing", expected="data")
    return found


def _detector(file: h5py.File, name: str) -> Iterator[FoundData]:
    for key, group in file.get("data", {}).items():
        if key == name or key.startswith(f"{name}:"):
            found = _found(file, key, group)
            if "is_good_frame" in group:
                found.pulse_ids[group["is_good_frame"][()].reshape(-1) == 0] = 0
            yield found


def _channels(file: h5py.File) -> Iterator[FoundData]:
    for parent in (file, file.get("data", {})):
        for key, group in parent.items():
            if isinstance(group, h5py.Group) and {"data", "pulse_id"} <= set(group):
                yield _found(file, key, group)


def _found(file: h5py.File, key: str, group: h5py.Group) -> FoundData:
    for name in ("data", "pulse_id"):
        if not isinstance(group.get(name), h5py.Dataset):
            raise FileFormatError(
                file.filename, f"{group.name}/{name}", found="nothing", expected="a dataset"
            )
    data, ids = group["data"], group["pulse_id"]
    pulse_ids = ids[()].reshape(-1).astype("i8")
    if not data.ndim or len(data) != len(pulse_ids):
        raise FileFormatError(
            file.filename, data.name, found=f"shape {data.shape}", expected=f"{len(pulse_ids)} rows"
        )
    return FoundData(
        key,
        data.name,
        data.shape[1:],
        data.dtype.str,
        pulse_ids,
        ids.name,
        ids.shape[1:],
        ids.dtype.str,
    )

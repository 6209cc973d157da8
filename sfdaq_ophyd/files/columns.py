"""A small file of numbers, one dataset per column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ._late import h5py
from ._storage import make_folder, writing


def write_columns(path: str | Path, columns: Mapping[str, Sequence[int]]) -> None:
    """Write columns of integers as datasets of int64.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    make_folder(Path(path).parent)
    with writing(path), h5py.File(path, "w", libver="latest") as file:
        for name, values in columns.items():
            file[name] = np.asarray(values, "i8")

"""Tables of a series beside the frames of their file: masks, flat fields, what a count rate was corrected by.

::

    /entry/instrument/detector      NXdetector
      series_uid                    (m,) bytes, UTF-8: from which series on row k of each table holds
      <table>                       (m, ...), e.g. pixel_mask/threshold_1: (m, y, x) uint32

Which tables there are is known when the file is made; later ones of the same names and shapes are appended.
"""

from __future__ import annotations

import logging

import numpy as np

from ..errors import WireError
from ..wire.frame import MAX_ID_BYTES, Tables
from ._hdf5 import chunk_filter
from ._lazy_imports import h5py

logger = logging.getLogger(__name__)

PLACE = "entry/instrument/detector"
SINCE = "series_uid"


class TablesInFile:
    """The tables of one frame file.

    Parameters
    ----------
    file : h5py.File
        In which nothing of the kind is; not in SWMR mode as yet.
    tables : Tables
        The first ones.
    """

    def __init__(self, file: h5py.File, tables: Tables):
        instrument = file.create_group("entry/instrument")
        instrument.attrs["NX_class"] = "NXinstrument"
        group = instrument.create_group("detector")
        group.attrs["NX_class"] = "NXdetector"
        self._since = group.create_dataset(SINCE, (0,), f"S{MAX_ID_BYTES}", maxshape=(None,), chunks=(64,))
        self._tables = {
            name: group.create_dataset(
                name,
                (0, *table.shape),
                table.dtype.newbyteorder("<"),
                maxshape=(None, *table.shape),
                chunks=(1, *table.shape),
                **chunk_filter(),
            )
            for name, table in _readable(tables).items()
        }
        self.add(tables)

    def add(self, tables: Tables) -> bool:
        """Append a row to every table; False, with nothing done, if these are not all of those, and alike."""
        row, arrays = len(self._since), _readable(tables)
        kinds = {name: (table.shape, table.dtype.newbyteorder("<")) for name, table in arrays.items()}
        if kinds != {name: (dataset.shape[1:], dataset.dtype) for name, dataset in self._tables.items()}:
            return False
        for name, dataset in self._tables.items():
            dataset.resize(row + 1, axis=0)
            dataset[row] = arrays[name]
            dataset.flush()
        self._since.resize(row + 1, axis=0)
        self._since[row] = tables.since.encode()
        self._since.flush()
        return True


def _readable(tables: Tables) -> dict[str, np.ndarray]:
    """Return what can be unpacked; the rest is told in the log."""
    found = {}
    for name, table in tables.arrays.items():
        try:
            found[name] = table.unpack()
        except WireError as exc:
            logger.warning("%s of series %s is not readable: %s", name, tables.since, exc)
    return found

"""Read what is registered from a file that holds more by now."""

from __future__ import annotations

import math

from tiled.adapters.hdf5 import HDF5Adapter, HDF5ArrayAdapter


class GrowingHDF5Adapter(HDF5Adapter):
    """Tiled's HDF5 adapter, for files whose writer is ahead of the documents.

    A detector's file holds (n, y, x) while the catalog shows (points, frames, y, x). Tiled reshapes the whole
    dataset, which fails as long as the file has a frame that is not registered yet; here such frames are left
    out.
    """

    @classmethod
    def from_catalog(cls, data_source, node, /, *args, **kwargs):
        """Return the adapter of one data source."""
        adapter = super().from_catalog(data_source, node, *args, **kwargs)
        if isinstance(adapter, HDF5ArrayAdapter):
            shape, array = tuple(data_source.structure.shape), adapter._array  # noqa: SLF001
            n_frames = math.prod(shape[:-2])
            if array.shape[1:] == shape[-2:] and array.shape[0] > n_frames:
                adapter._array = array[:n_frames]  # noqa: SLF001
        return adapter

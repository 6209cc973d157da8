"""HDF5's libraries, imported at their first use: importing the devices takes a tenth less without them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING


class _LazyModule:
    """Stands for a module until something is asked of it, and hands that on.

    Parameters
    ----------
    names : str
        The module and what has to be imported before it.
    """

    def __init__(self, *names: str):
        self._names = names

    def __getattr__(self, name: str) -> object:
        module, *_ = [import_module(each) for each in self._names]
        value = getattr(module, name)
        setattr(self, name, value)  # not asked for again
        return value


if TYPE_CHECKING:
    import h5py
    import hdf5plugin
else:
    h5py = _LazyModule("h5py", "hdf5plugin")  # which registers the filters of compressed files
    hdf5plugin = _LazyModule("hdf5plugin")

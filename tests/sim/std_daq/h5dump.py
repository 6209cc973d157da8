"""What ``h5dump -H -p`` says of a file, for the few types and properties that the DAQ's files have."""

from __future__ import annotations

import h5py
import numpy as np

FILL_TIME = {h5py.h5d.FILL_TIME_IFSET: "IFSET", h5py.h5d.FILL_TIME_NEVER: "NEVER"}
ALLOC_TIME = {h5py.h5d.ALLOC_TIME_INCR: "INCR", h5py.h5d.ALLOC_TIME_EARLY: "EARLY"}


def h5dump(path, name: str) -> str:
    """Return the text of a file; it calls the file `name`."""
    with h5py.File(path) as file:
        lines = [f'HDF5 "{name}" {{', *_group("/", file, 0), "}"]
    return "\n".join(lines) + "\n"


def _group(name: str, group: h5py.Group, depth: int) -> list[str]:
    inside = []
    for key, node in group.items():
        inside += (_group if isinstance(node, h5py.Group) else _dataset)(key, node, depth + 1)
    return _indented([f'GROUP "{name}" {{', *inside, "}"], depth and 1)


def _dataset(name: str, dataset: h5py.Dataset, depth: int) -> list[str]:
    plan = dataset.id.get_create_plist()
    assert not plan.get_nfilters() and plan.fill_value_defined() == h5py.h5d.FILL_VALUE_DEFAULT
    sizes = ", ".join(map(str, dataset.shape))
    most = ", ".join("H5S_UNLIMITED" if n is None else str(n) for n in dataset.maxshape)
    body = [
        *_type(dataset.dtype),
        f"DATASPACE  SIMPLE {{ ( {sizes} ) / ( {most} ) }}",
        "STORAGE_LAYOUT {",
        f"   CHUNKED ( {', '.join(map(str, dataset.chunks))} )",
        f"   SIZE {dataset.id.get_storage_size()}",
        "}",
        *("FILTERS {", "   NONE", "}"),
        "FILLVALUE {",
        f"   FILL_TIME H5D_FILL_TIME_{FILL_TIME[plan.get_fill_time()]}",
        "   VALUE  H5D_FILL_VALUE_DEFAULT",
        "}",
        *("ALLOCATION_TIME {", f"   H5D_ALLOC_TIME_{ALLOC_TIME[plan.get_alloc_time()]}", "}"),
    ]
    return _indented([f'DATASET "{name}" {{', *_indented(body, 1), "}"], 1)


def _type(dtype: np.dtype) -> list[str]:
    if dtype.names is None:
        return [f"DATATYPE  {_scalar(dtype)}"]
    fields = [f'   {_scalar(dtype[name])} "{name}";' for name in dtype.names]
    return ["DATATYPE  H5T_COMPOUND {", *fields, "}"]


def _scalar(dtype: np.dtype) -> str:
    assert dtype.kind == "u" and dtype.isnative
    return f"H5T_STD_U{8 * dtype.itemsize}LE"


def _indented(lines: list[str], depth: int) -> list[str]:
    return ["   " * depth + line for line in lines]

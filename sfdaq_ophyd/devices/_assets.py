"""StreamResource and StreamDatum of one file, by the portable recipe both TiledWriters read alike.

A datum is emitted only for data that is on disk, and the indices of a file have no gap: an event that the
RunEngine dropped gives its index to the next one. Whether an event was saved is read off the documents
themselves: the RunEngine writes the descriptor's uid into a stream_datum when, and only when, it emits it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from event_model import StreamRange
from event_model import compose_stream_resource as compose

from ..files.frame_file import IDS_PER_CHUNK
from ..wire.frame import MAX_ID_BYTES, FrameFormat

HDF5 = "application/x-hdf5"
_NOTHING: Mapping[str, dict] = {}


def frames_in_hdf5(dataset: str, shape: tuple[int, int], frames_per_point: int) -> dict:
    """Return the parameters of a StreamResource for a dataset (n, y, x) with one frame per chunk.

    Parameters
    ----------
    dataset : str
        Its path in the file.
    shape : (int, int)
        (y, x) of a frame, pixels.
    frames_per_point : int
        Frames that belong to one event.

    Returns
    -------
    dict
        For `WrittenFile.keys`.
    """
    return {
        "dataset": dataset,
        "chunk_shape": (1, frames_per_point, *shape),
        "join_method": "stack",
        "swmr": True,
    }


def column_in_hdf5(dataset: str) -> dict:
    """Return what a StreamResource says of a dataset (n,) with one number or id per frame."""
    return {"dataset": dataset, "chunk_shape": (IDS_PER_CHUNK,), "join_method": "stack", "swmr": True}


class FileAssets:
    """Documents of one file.

    Parameters
    ----------
    path : str or Path
        Absolute.
    keys : Mapping[str, dict]
        Data key to the parameters of its StreamResource.
    mimetype : str
        Of the file.
    """

    def __init__(self, path: str | Path, keys: Mapping[str, dict], mimetype: str = HDF5):
        self._uri = "file://localhost" + Path(path).absolute().as_posix()
        self._keys, self._mimetype = dict(keys), mimetype
        self._bundles: dict[str, tuple] = {}
        self._handed: list[dict] = []

    def documents(
        self, start: int, stop: int, more: Mapping[str, dict] = _NOTHING
    ) -> Iterator[tuple[str, dict]]:
        """Yield what registers points: a StreamResource per data key, once per run, and a StreamDatum.

        Parameters
        ----------
        start, stop : int
            Points of the file, from 0; `stop` is exclusive.
        more : mapping of str to dict
            Further data keys, as `keys`.
        """
        self._handed = []
        for key, parameters in {**self._keys, **more}.items():
            if key not in self._bundles or not self._bundles[key][0].get("run_start"):
                bundle = compose(mimetype=self._mimetype, uri=self._uri, data_key=key, parameters=parameters)
                resource = cast("dict[str, Any]", bundle.stream_resource_doc)  # a TypedDict is one
                self._bundles[key] = (resource, bundle.compose_stream_datum)
                yield "stream_resource", resource
        for _, compose_datum in self._bundles.values():
            # what the schema asks for is in it: checking each costs half a millisecond
            datum = compose_datum(indices=StreamRange(start=start, stop=stop), validate=False)
            self._handed.append(datum)
            yield "stream_datum", datum

    @property
    def saved(self) -> bool:
        """Whether the RunEngine emitted the datums handed out last."""
        return bool(self._handed) and all(datum["descriptor"] for datum in self._handed)


_DTYPES = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "U": "string"}


def columns_of(fmt: FrameFormat) -> dict[str, np.dtype]:
    """Return what a frame has beside its image: dtype by name, without the device's."""
    pulse_id = {"pulse_id": np.dtype("i8")} if fmt.has_pulse_id else {}
    event_id = np.dtype(f"U{MAX_ID_BYTES}")
    return {
        "timestamp": np.dtype("f8"),
        "event_id": event_id,
        **pulse_id,
        "is_good": np.dtype(bool),
        **fmt.scalars,
    }


def data_keys(name: str, fmt: FrameFormat, frames_per_point: int, with_missing: bool) -> dict[str, dict]:
    """Describe a point: its images, a key per column, and, where wanted, the count of missing frames."""
    images = fmt.images.items()
    keys = {f"{name}_{image}": _image_key(name, image, *kind, frames_per_point) for image, kind in images}
    for column, dtype in columns_of(fmt).items():
        one = frames_per_point == 1
        kind, shape = _DTYPES[dtype.kind] if one else "array", [] if one else [frames_per_point]
        keys[f"{name}_{column}"] = _key(name, kind, dtype.str, shape)
    keys[f"{name}_timestamp"]["units"] = "s"
    if with_missing:
        keys[f"{name}_n_missing"] = _key(name, "integer", "<i8", [])
    return keys


def _key(name: str, dtype: str, numpy: str, shape: list[int]) -> dict:
    return {"source": f"frame:{name}", "dtype": dtype, "dtype_numpy": numpy, "shape": shape}


def _image_key(name: str, image: str, shape: tuple[int, int], dtype: np.dtype, frames_per_point: int) -> dict:
    """Describe an image of a point: external, shape (frames_per_point, y, x)."""
    axes = name if image == "image" else f"{name}_{image}"
    return {
        **number_key(name, dtype, frames_per_point),
        "shape": [frames_per_point, *shape],
        "dims": [f"{name}_frame", f"{axes}_y", f"{axes}_x"],
    }


def number_key(name: str, dtype: np.dtype, frames_per_point: int) -> dict:
    """Describe a number per frame that is external, as the image is; shape (frames_per_point,)."""
    key = _key(name, "array", dtype.newbyteorder("<").str, [frames_per_point])
    return {**key, "external": "STREAM:"}


def external_key(data_key: dict) -> dict:
    """Describe a value of events as a column of a file; one that is external already stays as it is."""
    if "external" in data_key:
        return data_key
    dtype = np.dtype(data_key["dtype_numpy"])
    in_file = np.dtype(f"S{dtype.itemsize // 4}") if dtype.kind == "U" else dtype  # as `kinds_of` keeps it
    return {**data_key, "dtype_numpy": in_file.str, "external": "STREAM:"}


def event_columns(columns: dict[str, list], with_missing: bool) -> dict[str, list]:
    """Add the count of missing frames per point to the columns of points, where it is wanted."""
    if not with_missing:
        return columns
    ids = columns["event_id"]
    n_missing = [point.count("") if isinstance(point, list) else int(not point) for point in ids]
    return columns | {"n_missing": n_missing}

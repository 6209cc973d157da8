"""What the frames of a point are called in events, and how they are described."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..wire.frame import MAX_ID_BYTES, FrameFormat

_FIXED = {"timestamp": np.dtype("f8"), "event_id": np.dtype(f"U{MAX_ID_BYTES}"), "is_good": np.dtype(bool)}
_DTYPES = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "U": "string"}


def columns_of(fmt: FrameFormat) -> dict[str, np.dtype]:
    """Return what is known of every frame beside its image: name, without the device's, to dtype."""
    pulse_id = {"pulse_id": np.dtype("i8")} if fmt.has_pulse_id else {}
    return {
        "timestamp": _FIXED["timestamp"],
        "event_id": _FIXED["event_id"],
        **pulse_id,
        "is_good": _FIXED["is_good"],
        **fmt.scalars,
    }


def data_keys(name: str, fmt: FrameFormat, frames_per_point: int, with_missing: bool) -> dict[str, dict]:
    """Describe a point of `frames_per_point` frames: the image, and a key per column."""
    images = fmt.images.items()
    keys = {f"{name}_{image}": image_key(name, image, *kind, frames_per_point) for image, kind in images}
    for column, dtype in columns_of(fmt).items():
        one = frames_per_point == 1
        keys[f"{name}_{column}"] = {
            "source": f"frame:{name}",
            "dtype": _DTYPES[dtype.kind] if one else "array",
            "dtype_numpy": dtype.str,
            "shape": [] if one else [frames_per_point],
        }
    keys[f"{name}_timestamp"]["units"] = "s"
    if with_missing:
        keys[f"{name}_n_missing"] = {
            "source": f"frame:{name}",
            "dtype": "integer",
            "dtype_numpy": "<i8",
            "shape": [],
        }
    return keys


def image_key(name: str, image: str, shape: tuple[int, int], dtype: np.dtype, frames_per_point: int) -> dict:
    """Describe an image of a point: external, shape (frames_per_point, y, x)."""
    axes = name if image == "image" else f"{name}_{image}"
    return {
        "source": f"frame:{name}",
        "dtype": "array",
        "dtype_numpy": dtype.newbyteorder("<").str,
        "shape": [frames_per_point, *shape],
        "dims": [f"{name}_frame", f"{axes}_y", f"{axes}_x"],
        "external": "STREAM:",
    }


def number_key(name: str, dtype: np.dtype, frames_per_point: int) -> dict:
    """Describe a number per frame that is external as the image is, shape (frames_per_point,)."""
    return {
        "source": f"frame:{name}",
        "dtype": "array",
        "dtype_numpy": dtype.newbyteorder("<").str,
        "shape": [frames_per_point],
        "external": "STREAM:",
    }


def external_key(data_key: dict) -> dict:
    """Describe what `data_key` says of events as a column of the file instead, if it is not external yet."""
    if "external" in data_key:
        return data_key
    dtype = np.dtype(data_key["dtype_numpy"])
    in_file = np.dtype(f"S{MAX_ID_BYTES}") if dtype.kind == "U" else dtype
    return {**data_key, "dtype_numpy": in_file.str, "external": "STREAM:"}


def event_columns(columns: dict[str, list], with_missing: bool) -> dict[str, list]:
    """Add the count of missing frames per point, where it is wanted."""
    if not with_missing:
        return columns
    ids = columns["event_id"]
    n_missing = [point.count("") if isinstance(point, list) else int(not point) for point in ids]
    return columns | {"n_missing": n_missing}


def first_row(columns: dict[str, list]) -> dict[str, Any]:
    """Return the values of the first point."""
    return {name: column[0] for name, column in columns.items()}

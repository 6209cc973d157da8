"""Documents in JSON's own types."""

from __future__ import annotations

import datetime
import enum
import pathlib

import numpy as np


def plain(value: object):
    """Turn what documents hold beside JSON's own types into these."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, pathlib.PurePath | datetime.date | datetime.time):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")

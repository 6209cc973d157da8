"""Values of events as columns: each keeps its type and its rows, whatever a device says later.

A table gets its column types once, and so does an array its shape. A value that does not fit must cost its
own column at the most: never the other columns, never the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow

INT64, UINT64 = (-(2**63), 2**63 - 1), (0, 2**64 - 1)
"""The smallest and the largest integer."""

EXACT = 2**53
"""Integers beyond this lose digits in floating point numbers, JSON's among them."""


class ScalarColumn:
    """One value per event, of the type that its data key declares; first values that contradict it hold.

    It is `odd` where it is text for want of a type that holds all values; `unsigned` says whether 64 bits
    without a sign are such a type.
    """

    def __init__(self, spec: dict, values: Sequence[Any], unsigned: bool = True):
        self.type = _type_of(spec, values)
        if self.type == pyarrow.uint64() and not unsigned:
            there = [int(value) for value in values if value is not None]
            self.type = pyarrow.int64() if max(there) <= INT64[1] else pyarrow.string()
        self.odd = self.type == pyarrow.string() != _type_of(spec, [])
        self.misfits: list = []

    def array(self, values: Sequence[Any]) -> pyarrow.Array:
        """Return values in the column's type; NaN or null for what does not fit, the last in `misfits`."""
        fit = _FITS[self.type]
        found = []
        for value in values:
            try:
                found.append(fit(value))
            except (TypeError, ValueError, OverflowError):
                self.misfits = [value]
                found.append(math.nan if self.type == pyarrow.float64() else None)
        return pyarrow.array(found, self.type)


_NAME, _NO_NAME = re.compile(r"[A-Za-z_].*"), re.compile(r"""['"`;\\%()=+]|--|/\*|\*/""")
LONGEST_NAME = 63
"""Bytes of the name of a column."""


def no_columns(names: Sequence[str]) -> set[str]:
    """Return those of `names` that a table of the server does not take, as it keeps them in SQL.

    Of those that differ in case only, the first is taken.
    """
    refused, taken = set(), set()
    for name in names:
        fits = _NAME.fullmatch(name) and not _NO_NAME.search(name) and len(name.encode()) <= LONGEST_NAME
        if fits and name.lower() not in taken:
            taken.add(name.lower())
        else:
            refused.add(name)
    return refused


def as_numpy(column: pyarrow.Array) -> np.ndarray:
    """Return a column as an array; text is empty where nothing is."""
    if column.type == pyarrow.string():
        return np.array(["" if value is None else value for value in column.to_pylist()], "U")
    return column.to_numpy(zero_copy_only=False)


def _type_of(spec: dict, values: Sequence[Any]) -> pyarrow.DataType:
    declared, dtype = spec.get("dtype"), np.dtype("O")
    try:
        dtype = np.dtype(spec.get("dtype_numpy") or "O")
    except (TypeError, ValueError):
        pass  # a structure
    if declared == "boolean":
        return pyarrow.bool_() if all(_is_bool(value) for value in values) else pyarrow.string()
    if declared == "integer" or declared == "number" and dtype.kind in "iu":
        there = [value for value in values if value is not None]
        whole = all(map(_is_whole, there))
        if not there or not whole or len(there) < len(values):  # integers of a table have no NaN
            real = all(map(_is_real, there)) and not (whole and any(abs(int(v)) > EXACT for v in there))
            return pyarrow.float64() if real else pyarrow.string()
        lowest, highest = min(map(int, there)), max(map(int, there))
        wide = dtype.kind == "u" and dtype.itemsize == 8 or highest > INT64[1]
        low, high = UINT64 if wide else INT64
        if lowest < low or highest > high:
            return pyarrow.string()
        return pyarrow.uint64() if wide else pyarrow.int64()
    is_float = declared == "number" and not any(map(_loses_digits, values))
    return pyarrow.float64() if is_float else pyarrow.string()


def _loses_digits(value: Any) -> bool:
    """Tell whether this is an integer that no floating point number is equal to."""
    try:
        return isinstance(value, int | np.integer) and float(value) != int(value)
    except OverflowError:
        return True


def _is_real(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _is_whole(value: Any) -> bool:
    try:
        return int(value) == value
    except (TypeError, ValueError, OverflowError):
        return False


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.generic) and value in (0, 1)


def _as_float(value: Any) -> float:
    if _loses_digits(value):
        raise ValueError(value)
    return math.nan if value is None else float(value)


def _as_integer(limits: tuple[int, int]):
    def fit(value: Any) -> int:
        if not _is_whole(value) or not limits[0] <= int(value) <= limits[1]:
            raise ValueError(value)
        return int(value)

    return fit


def _as_bool(value: Any) -> bool:
    if not _is_bool(value):
        raise ValueError(value)
    return bool(value)


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode()


_FITS = {
    pyarrow.float64(): _as_float,
    pyarrow.int64(): _as_integer(INT64),
    pyarrow.uint64(): _as_integer(UINT64),
    pyarrow.bool_(): _as_bool,
    pyarrow.string(): _as_text,
}


def stacked(
    values: Sequence[Any], ndim: int | None = None, text: bool = False
) -> tuple[np.ndarray, Any, bool, bool]:
    """Make one array of the values of several events; short ones are padded with NaN, text with nothing.

    It is text too where floating point numbers, which alone have NaN, would change an integer.

    Parameters
    ----------
    values : sequence
        One array, list or None per event.
    ndim : int, optional
        Axes of one value; default is what most have.
    text : bool
        Whether it is to be text in any case.

    Returns
    -------
    array : numpy.ndarray
        Shape ``(len(values), ...)``, no axis of length 0.
    misfit : object
        The last value that is no such array and counts as missing, or None.
    padded : bool
        Whether some arrays are shorter than others.
    is_text : bool
        Whether there are numbers among them, and they are text.
    """
    arrays, misfit = [], None
    for value in values:
        try:
            arrays.append(None if value is None else _array(value))
        except (TypeError, ValueError):
            arrays.append(None)
            misfit = value
    there = [array.ndim for array in arrays if array is not None]
    ndim = ndim or (max(set(there), key=there.count) if there else 1)
    for i, array in enumerate(arrays):
        if array is not None and array.ndim != ndim:
            arrays[i], misfit = None, values[i]
    kept = [array for array in arrays if array is not None]
    shape = tuple(max((array.shape[axis] for array in kept), default=1) or 1 for axis in range(ndim))
    dtype = np.result_type(*kept) if kept else np.dtype("f8")
    if dtype.kind != "U" and any(array is None or array.shape != shape for array in arrays):
        dtype = np.result_type(dtype, np.float64)
    if text or dtype.kind == "U" or not all(_holds(dtype, array) for array in kept):
        arrays = [None if array is None else as_text(array) for array in arrays]
        dtype = np.result_type("U1", *(array for array in arrays if array is not None))
    out = np.full(
        (len(arrays), *shape), "" if dtype.kind == "U" else np.nan if dtype.kind == "f" else 0, dtype
    )
    for row, array in zip(out, arrays):
        if array is not None:
            row[tuple(slice(n) for n in array.shape)] = array
    is_text = dtype.kind == "U" and any(
        np.asarray(value).dtype.kind not in "US" for value, array in zip(values, arrays) if array is not None
    )
    return out, misfit, any(array.shape != shape for array in kept), is_text


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "backslashreplace")
    elif array is not value and (array.dtype.kind == "O" or _is_large(array)):  # numpy chose the type
        array = _as_listed(np.asarray(value, object), array)
    if array.dtype.kind not in "biufU" or array.ndim == 0:
        raise ValueError(value)
    return array


def _is_large(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool((np.abs(array) >= EXACT).any())


def _as_listed(items: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Return `array`, or text where it has not every integer of `items` exactly, as of more than 64 bits."""
    numbers = items.ravel().tolist()
    if not all(isinstance(number, int | float | np.number) for number in numbers):
        return array
    if array.dtype.kind == "f" and not any(map(_loses_digits, numbers)):
        return array
    return items.astype("U")


def as_text(array: np.ndarray) -> np.ndarray:
    """Return an array as text: nothing for NaN, and whole numbers without a point."""
    if array.dtype.kind != "f":
        return array.astype("U")
    return np.array([_number_text(value) for value in array.ravel().tolist()], "U").reshape(array.shape)


def _number_text(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) <= UINT64[1] else repr(value)


def _holds(dtype: np.dtype, array: np.ndarray) -> bool:
    """Tell whether a type has every integer of an array exactly, if it is of floating point numbers."""
    if dtype.kind != "f" or array.dtype.kind not in "iu":
        return True
    large = array[np.abs(array.astype(float)) >= EXACT]
    return not any(map(_loses_digits, large.tolist()))


def cast(block: np.ndarray, dtype: Any) -> np.ndarray | None:
    """Return `block` as `dtype` if that changes no value, else None."""
    try:
        with np.errstate(all="ignore"):
            made = block.astype(dtype)
            same = np.array_equal(made, block, equal_nan=made.dtype.kind == block.dtype.kind == "f")
            same = same and _holds(made.dtype, block)  # integers and numbers are compared as numbers
    except (TypeError, ValueError, OverflowError):
        return None
    return made if same else None


def plain_values(column) -> list:
    """Return a column of pandas with None where nothing is."""
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna())]


def _exact_descriptor(descriptor: dict) -> dict:
    descriptor["configuration"] = exact_metadata(descriptor.get("configuration", {}))
    descriptor["data_keys"] = {key: _exact_key(spec) for key, spec in descriptor["data_keys"].items()}
    return descriptor


def _exact_key(spec: dict) -> dict:
    """Leave what makes the array, a structure of tuples among it, and have limits that are numbers."""
    exact = {
        word: exact_metadata(value) for word, value in spec.items() if word not in ("dtype_numpy", "shape")
    }
    if "limits" in spec:
        exact["limits"] = _limits(spec["limits"])
    return {word: exact.get(word, value) for word, value in spec.items()}


def _limits(value):
    """Return limits with None for infinite ones, which are none."""
    if isinstance(value, dict):
        return {key: _limits(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isinf(value) else value


def _text_paths(resource: dict) -> dict:
    """Let devices of others give a Path."""
    return {key: str(value) if isinstance(value, PurePath) else value for key, value in resource.items()}


def exact_metadata(value):
    """Return `value` with numbers of 2**53 or more, and inf, as text, at any depth; arrays are lists.

    Shared parts are not changed.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return _as_text(value)
    if isinstance(value, dict):
        return {key: exact_metadata(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [exact_metadata(item) for item in value]
    if isinstance(value, int | float) and abs(value) >= EXACT:
        return repr(value)
    return value


PATCHES = {
    "start": exact_metadata,
    "stop": exact_metadata,
    "descriptor": _exact_descriptor,
    "resource": _text_paths,
}
"""How documents are changed before they are written, by their name."""

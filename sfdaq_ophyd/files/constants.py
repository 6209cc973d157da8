"""A `JungfrauCalibration` from the files a facility keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration import JungfrauCalibration
from ..errors import BadConstant, FileFormatError, RequestError, WireError
from ..wire.detector_name import MODULE_SHAPE
from ..wire.json_text import load_json
from .gain_file import read_gain
from .pedestal_file import read_om_darks, read_pedestal, read_pixel_mask

Files = str | Path | Sequence[str | Path]

Stamps = tuple[tuple[int, int] | None, ...]
"""Of files: time in ns, and size."""


def load_calibration(
    detector_name: str,
    gain_file: Files,
    pedestal_file: Files,
    pixel_mask_file: str | Path | None = None,
    *,
    om_words: str = "auto",
    **options: Any,
) -> JungfrauCalibration:
    """Read constants and make the calibration, ready for the first frame.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``.
    gain_file : path, or sequence of paths
        HDF5 file with ``/gains``, or PSI's binary files, one per module.
    pedestal_file : path, or sequence of paths
        ``.res.h5`` file, whose ``/pixel_mask`` is used; or OM's dark files, one per module.
    pixel_mask_file : path, optional
        A further mask, e.g. the permanent one; its bad pixels get bit 0.
    om_words : {"auto", "int16", "uint16"}
        How OM's dark files came to be; see `read_om_darks`.
    **options
        As `JungfrauCalibration` takes them: options, `n_threads`, `engine`, `disabled_modules`.

    Raises
    ------
    FileFormatError
        A file is missing, truncated, of another detector, or holds the wrong thing, such as a gain of zero or
        NaN on a pixel in use; names file, dataset, found and expected.
    RequestError
        Unknown detector, bad option.

    Examples
    --------
    >>> calibration = load_calibration("JF01T03V01", "gains.h5", "run7.res.h5", factor=9.3)  # doctest: +SKIP
    """
    gain = read_gain(gain_file, detector_name)
    if isinstance(pedestal_file, (str, Path)):
        pedestal = read_pedestal(pedestal_file, detector_name)
    else:
        pedestal = read_om_darks(pedestal_file, detector_name, words=om_words)
    mask = pedestal.pixel_mask
    if pixel_mask_file is not None:
        permanent = (read_pixel_mask(pixel_mask_file, detector_name) != 0).astype(np.int64)
        mask = permanent if mask is None else mask | permanent
    try:
        return JungfrauCalibration(
            detector_name,
            gain,
            pedestal.mean,
            mask,
            gain_file=names_of(gain_file),
            pedestal_file=names_of(pedestal_file),
            pixel_mask_file=pixel_mask_file or "",
            **options,
        )
    except BadConstant as exc:
        raise _in_its_file(exc, gain_file if exc.maps == "gain" else pedestal_file) from exc


def names_of(files: Files) -> str:
    """Return file names as one text: the name, or a JSON list of names."""
    return str(files) if isinstance(files, (str, Path)) else json.dumps([str(path) for path in files])


def files_of(names: str) -> Files:
    """Return what `names_of` wrote down; RequestError if it is something else."""
    if not names.startswith("["):
        return names
    try:
        files = load_json(names)
    except WireError as exc:
        raise RequestError("constants", names, "a file name, or a JSON list of file names") from exc
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise RequestError("constants", names, "a file name, or a JSON list of file names")
    return files


def stamps_of(*files: Files) -> Stamps:
    """Return time and size of each file, by which it is seen that one has changed; None where it is not."""
    names = [name for each in files for name in ((each,) if isinstance(each, (str, Path)) else each)]
    return tuple(map(_stamp, names))


def _stamp(path: str | Path) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except (OSError, ValueError):  # what is wrong with it, reading it will say
        return None
    return stat.st_mtime_ns, stat.st_size


def _in_its_file(exc: BadConstant, files: Files) -> FileFormatError:
    """Return the same error with the file and the dataset that hold the constant."""
    path, dataset, y = files, "gains", exc.y
    if not isinstance(files, (str, Path)):
        module, y = divmod(exc.y, MODULE_SHAPE[0])
        path = files[module]
        dataset = "gain maps" if exc.maps == "gain" else f"gain{exc.stage.removeprefix('G')}"
    found = f"{exc.value:g} in {exc.stage} at row {y}, column {exc.x}"
    return FileFormatError(path, dataset, found=found, expected=exc.expected)

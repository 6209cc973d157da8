"""A `JungfrauCalibration` from the files a facility keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration import JungfrauCalibration
from .gain_file import read_gain
from .pedestal_file import read_om_darks, read_pedestal, read_pixel_mask


def load_calibration(
    detector_name: str,
    gain_file: str | Path | Sequence[str | Path],
    pedestal_file: str | Path | Sequence[str | Path],
    pixel_mask_file: str | Path | None = None,
    *,
    om_words: str = "int16",
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
    om_words : {"int16", "uint16"}
        How OM's dark files came to be; see `read_om_darks`.
    **options
        As `JungfrauCalibration` takes them: options, `n_threads`, `engine`, `disabled_modules`.

    Raises
    ------
    FileFormatError
        A file is missing, truncated, or holds the wrong thing; names file, dataset, found and expected.
    RequestError
        Unknown detector, bad option, gains of zero or NaN.

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
    names = [str(gain_file)] if isinstance(gain_file, (str, Path)) else [str(path) for path in gain_file]
    return JungfrauCalibration(
        detector_name,
        gain,
        pedestal.mean,
        mask,
        gain_file=" ".join(names),
        pedestal_file=pedestal_file,
        **options,
    )

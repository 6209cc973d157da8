"""Pedestals: the facility's ``.res.h5``, OM's darks (wire reference jungfrau, sections 7.2 and 8.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import FileFormatError, RequestError
from ..wire.detector_name import MODULE_SHAPE, DetectorName
from ._hdf5 import check_detector, check_pedestal, dataset, h5py, opened, read, read_planes, warn_of_nothing

OM_GAIN_BITS = {"int16": (0, 16384, -16384), "uint16": (0, 16384, 49152)}
"""What OM's darks of G0, G1, G2 hold above the ADU: as from its ZMQ stream, and as from files."""


class Pedestal(NamedTuple):
    """Mean and spread of dark frames.

    Attributes
    ----------
    mean : ndarray of float, shape (3 or 4, 512 n, 1024)
        ADU of G0, G1, G2[, HG0], gain bits removed.
    rms : ndarray of float, same shape, or None
        Standard deviation, ADU.
    pixel_mask : ndarray of int64, shape (512 n, 1024), or None
        A bit per reason; 0 is good.
    """

    mean: npt.NDArray[np.floating]
    rms: npt.NDArray[np.floating] | None
    pixel_mask: npt.NDArray[np.int64] | None


def read_pedestal(path: str | Path, detector_name: str) -> Pedestal:
    """Read ``/gains``, ``/gainsRMS`` and ``/pixel_mask``; the last two may be missing.

    Parameters
    ----------
    path : str or Path
        The facility's ``.res.h5``. Its name, or that of its folder, may say whose it is.
    detector_name : str
        E.g. ``"JF01T03V01"``; says how many modules there must be.

    Returns
    -------
    Pedestal
        `rms` and `pixel_mask` are None where the file has none.

    Raises
    ------
    FileFormatError
        Missing pedestals, wrong shape or dtype, another detector's file; pedestals that no ADC can give, as
        with gain bits left in them. A stage without values is warned of.
    RequestError
        `detector_name` is no name of a detector.

    Notes
    -----
    See wire reference jungfrau, section 8.2.
    """
    check_detector(path, "gains", detector_name)
    with opened(path) as file:
        mean = read_planes(file, "gains", detector_name, (3, 4))
        rms = read_planes(file, "gainsRMS", detector_name, (3, 4)) if "gainsRMS" in file else None
        mask = _read_mask(file, detector_name) if "pixel_mask" in file else None
    check_pedestal(path, "gains", mean)
    return Pedestal(mean, rms, mask)


def read_pixel_mask(path: str | Path, detector_name: str) -> npt.NDArray[np.int64]:
    """Read ``/pixel_mask`` alone, e.g. the facility's permanent mask.

    Parameters
    ----------
    path : str or Path
        An HDF5 file. Its name, or that of its folder, may say whose it is.
    detector_name : str
        E.g. ``"JF01T03V01"``; says how many modules there must be.

    Returns
    -------
    ndarray of int64, shape (512 n, 1024)
        Non-zero is bad.

    Raises
    ------
    FileFormatError
        Missing mask, wrong shape or dtype, or another detector's file.
    RequestError
        `detector_name` is no name of a detector.

    Notes
    -----
    See wire reference jungfrau, section 8.2.
    """
    check_detector(path, "pixel_mask", detector_name)
    with opened(path) as file:
        return _read_mask(file, detector_name)


def _read_mask(file: h5py.File, detector_name: str) -> npt.NDArray[np.int64]:
    expected = DetectorName.parse(detector_name).raw_shape
    mask = dataset(
        file,
        "pixel_mask",
        kinds="iub",
        shape=f"{expected} for {detector_name}",
        fits=expected.__eq__,
    )
    return read(mask).astype(np.int64)


def write_pedestal(path: str | Path, pedestal: Pedestal) -> None:
    """Write a pedestal file as the facility has them, which `read_pedestal` reads.

    Parameters
    ----------
    path : str or Path
        It must not exist; its folder must.
    pedestal : Pedestal
        Mean and rms are stored as float64, the mask as int64; what is None is left out. Shapes are not
        checked.

    Raises
    ------
    OSError
        The file is there already, or cannot be written.
    """
    with h5py.File(path, "x") as file:
        file["gains"] = np.asarray(pedestal.mean, dtype=np.float64)
        if pedestal.rms is not None:
            file["gainsRMS"] = np.asarray(pedestal.rms, dtype=np.float64)
        if pedestal.pixel_mask is not None:
            file["pixel_mask"] = np.asarray(pedestal.pixel_mask, dtype=np.int64)


def read_om_darks(paths: Sequence[str | Path], detector_name: str, *, words: str = "auto") -> Pedestal:
    """Return the pedestals in OM's dark files, one per module, with OM's gain bits taken out.

    Pixels that a stage has no value for are masked; where these are most of a module, that is warned of.

    Parameters
    ----------
    paths : sequence of path
        In the order of the modules.
    detector_name : str
        E.g. ``"JF01T03V01"``; says how many modules there must be.
    words : {"auto", "int16", "uint16"}
        How the raw words were read: from OM's ZMQ stream as int16, from files as uint16. They differ by 65536
        in G2, and the ADC's range is 0 to 16383: "auto" looks at the sign, the wrong choice is refused.

    Returns
    -------
    Pedestal
        `mean` has the stages G0, G1 and G2; `rms` is None; `pixel_mask` is 1 where a stage has no value.

    Raises
    ------
    FileFormatError
        Missing dataset, wrong shape or dtype, or values outside the ADC's range, as with the wrong `words`.
    RequestError
        `words` is none of the three, there is not one file per module, or `detector_name` is no name of a
        detector.

    Notes
    -----
    See wire reference jungfrau, section 7.2.
    """
    if words not in (*OM_GAIN_BITS, "auto"):
        raise RequestError("words", words, "'auto', 'int16' or 'uint16'")
    n = DetectorName.parse(detector_name).n_modules
    if len(paths) != n:
        raise RequestError(
            "dark files", [str(path) for path in paths], f"{n} files, one per module of {detector_name}"
        )
    mean = np.concatenate([_read_om_dark(path, words) for path in paths], axis=1)
    return Pedestal(mean, None, np.where((mean == 0).any(axis=0), 1, 0).astype(np.int64))


def _read_om_dark(path: str | Path, words: str) -> npt.NDArray[np.floating]:
    planes = []
    with opened(path) as file:
        darks = [
            read(dataset(file, f"gain{stage}", kinds="f", shape=str(MODULE_SHAPE), fits=MODULE_SHAPE.__eq__))
            for stage in range(3)
        ]
        if words == "auto":
            words = "int16" if (darks[2] < 0).any() else "uint16"
        for stage, (dark, bits) in enumerate(zip(darks, OM_GAIN_BITS[words])):
            adu = np.where(dark == 0, 0, dark - bits)
            if not ((adu >= 0) & (adu <= 16383)).all():
                low, high = float(adu.min()), float(adu.max())
                raise FileFormatError(
                    path,
                    f"gain{stage}",
                    found=f"{low:g} to {high:g} ADU as {words} words",
                    expected="0 to 16383 ADU",
                )
            warn_of_nothing(path, f"gain{stage}", stage, adu, "These pixels are masked, whatever their stage")
            planes.append(adu)
    return np.stack(planes)

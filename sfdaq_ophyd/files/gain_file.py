"""Gain maps, ADU/keV: the facility's HDF5 file, PSI's binary ones (wire reference jungfrau, section 8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import FileFormatError, RequestError
from ..wire.detector_name import MODULE_SHAPE, DetectorName
from ._hdf5 import check_detector, check_gain, h5py, looking_into, opened, read_planes

_MAP_PIXELS = MODULE_SHAPE[0] * MODULE_SHAPE[1]
_PLANES = {3: [0, 1, 2, 0, 1, 2], 4: [0, 1, 2, 3, 1, 2], 6: [0, 1, 2, 3, 4, 5]}


def read_gain(source: str | Path | Sequence[str | Path], detector_name: str) -> np.ndarray:
    """Return the gain maps of a detector.

    Parameters
    ----------
    source : path, or sequence of paths
        One HDF5 file (``/gains``), or one binary file per module, in the order of the modules.
    detector_name : str
        Says how many modules there must be.

    Returns
    -------
    ndarray of float32, shape (4 or 6, 512 n, 1024)
        G0, G1, G2, HG0[, HG1, HG2] in ADU/keV; gains of G1 and G2 are negative.

    Raises
    ------
    FileFormatError
        Missing dataset, wrong shape or dtype, another detector's file, wrong length of a binary file; gains
        of the wrong sign, or inverted.
    """
    if isinstance(source, (str, Path)):
        return _read_hdf5(source, detector_name)
    n = DetectorName.parse(detector_name).n_modules
    if len(source) != n:
        raise RequestError(
            "gain files", [str(path) for path in source], f"{n} files, one per module of {detector_name}"
        )
    return np.concatenate([read_gain_binary(path) for path in source], axis=1)


def _read_hdf5(path: str | Path, detector_name: str) -> np.ndarray:
    check_detector(path, "gains", detector_name)
    with opened(path) as file:
        maps = read_planes(file, "gains", detector_name, (4, 6)).astype(np.float32)
    check_gain(path, "gains", maps)
    return maps


def read_gain_binary(path: str | Path) -> np.ndarray:
    """Return the six maps of one module, from PSI's binary file of them.

    Older files hold three maps, then high gain equals normal gain, or four, then HG1 and HG2 equal G1 and G2.

    Parameters
    ----------
    path : str or Path
        Maps of 512 x 1024 float64, little-endian, one after the other.

    Returns
    -------
    ndarray of float32, shape (6, 512, 1024)
        G0, G1, G2, HG0, HG1, HG2 in ADU/keV.

    Raises
    ------
    FileFormatError
        There is no such file, its length is that of no 3, 4 or 6 maps, or the gains are of the wrong sign or
        inverted.

    Notes
    -----
    See wire reference jungfrau, section 8.1.
    """
    path = Path(path)
    with looking_into(path, "gain maps"):
        n_bytes = path.stat().st_size if path.is_file() else -1
        n_planes, rest = divmod(n_bytes, 8 * _MAP_PIXELS)
        if rest or n_planes not in _PLANES:
            found = "no such file" if n_bytes < 0 else f"{n_bytes} bytes"
            raise FileFormatError(
                path, "gain maps", found=found, expected=f"3, 4 or 6 maps of {8 * _MAP_PIXELS} bytes, float64"
            )
        maps = np.fromfile(path, dtype="<f8").reshape(n_planes, *MODULE_SHAPE)
    maps = maps[_PLANES[n_planes]].astype(np.float32)
    check_gain(path, "gain maps", maps)
    return maps


def write_gain(path: str | Path, gain: np.ndarray, *, input_files: Sequence[str] = ()) -> None:
    """Write gain maps as the facility's HDF5 file, which `read_gain` reads.

    Parameters
    ----------
    path : str or Path
        It must not exist; its folder must.
    gain : ndarray, shape (4 or 6, 512 n, 1024)
        ADU/keV; stored as float64. Shape and signs are not checked.
    input_files : sequence of str
        Names of the files the maps come from, kept as an attribute.

    Raises
    ------
    OSError
        The file is there already, or cannot be written.

    Notes
    -----
    See wire reference jungfrau, section 8.1.
    """
    with h5py.File(path, "x") as file:
        gains = file.create_dataset("gains", data=np.asarray(gain, dtype=np.float64))
        gains.attrs["creator"] = "sfdaq_ophyd"
        if input_files:
            gains.attrs["input_files"] = [str(name) for name in input_files]

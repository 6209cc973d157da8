"""HDF5 on disk."""

from .constants import load_calibration
from .gain_file import read_gain, write_gain
from .pedestal_file import Pedestal, read_om_darks, read_pedestal, read_pixel_mask, write_pedestal
from .swissfel_file import SwissfelFile

__all__ = [
    "Pedestal",
    "SwissfelFile",
    "load_calibration",
    "read_gain",
    "read_om_darks",
    "read_pedestal",
    "read_pixel_mask",
    "write_gain",
    "write_pedestal",
]

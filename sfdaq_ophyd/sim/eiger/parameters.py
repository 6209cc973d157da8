"""What models there are, and the parameters of a detector as a freshly initialized one has them.

As in wire reference eiger, sections 4.1, 4.2 and 9; what no source says is the simulator's choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from ...errors import RequestError
from ...wire.simplon import Parameter

LARGEST_COUNT = 2000000000
"""Most images, and most triggers, of one series."""

K_ALPHA_EV = {
    "Ti": 4510.84, "V": 4952.2, "Cr": 5414.72, "Mn": 5898.75, "Fe": 6403.84, "Co": 6930.32, "Ni": 7478.15,
    "Cu": 8047.78, "Zn": 8638.86, "Ga": 9251.74, "Ge": 9886.42, "As": 10543.72, "Se": 11222.4,
    "Br": 11924.2, "Mo": 17479.34, "Ag": 22162.92,
}  # fmt: skip
"""Energies `element` stands for."""

CHANGES = {
    name: changed.split()
    for names, changed in {
        "count_time frame_time": "bit_depth_image bit_depth_readout count_time"
        " countrate_correction_count_cutoff frame_count_time frame_time",
        "photon_energy incident_energy wavelength element": "element flatfield incident_energy photon_energy"
        " threshold/1/energy threshold/1/flatfield threshold/2/energy threshold/2/flatfield threshold_energy"
        " wavelength",
        "threshold_energy threshold/1/energy": "flatfield threshold/1/energy threshold/1/flatfield"
        " threshold/2/flatfield threshold_energy",
        "threshold/2/energy": "flatfield threshold/1/flatfield threshold/2/energy threshold/2/flatfield",
        "threshold/1/mode": "threshold/1/mode threshold/difference/mode",
        "threshold/2/mode": "threshold/2/mode threshold/difference/mode",
        "threshold/difference/mode": "difference_mode",  # no such path exists
        "roi_mode": "count_time frame_time roi_mode",
        "auto_summation": "auto_summation frame_count_time",
        "flatfield": "flatfield threshold/1/flatfield",
        "pixel_mask": "pixel_mask threshold/1/pixel_mask",
    }.items()
    for name in names.split()
}
"""What the real EIGER2 says has changed after a PUT."""

SWITCH = ("enabled", "disabled")


def number(value, unit="", access="rw", low=None, high=None) -> Parameter:
    """Return a float parameter."""
    return Parameter(value, "float", access, unit, low, high)


def count(value, access="rw", low=0, high=LARGEST_COUNT) -> Parameter:
    """Return an unsigned integer parameter."""
    limits = (None, None) if access == "r" else (low, high)
    return Parameter(value, "uint", access, "", *limits)


def text(value, *allowed, access="rw") -> Parameter:
    """Return a string parameter, of the allowed values if any are given."""
    return Parameter(value, "string", access, allowed_values=allowed)


def flag(value) -> Parameter:
    """Return a boolean parameter."""
    return Parameter(value, "bool")


def measured(value: Any, value_type: str = "string", unit: str = "", *allowed: str) -> Parameter:
    """Return a status parameter that was measured now."""
    now = datetime.now().isoformat()
    return Parameter(value, value_type, "r", unit, allowed_values=allowed, state="normal", time=now)


def detector_config(geometry: DetectorGeometry, version: str, serial: str) -> dict[str, Parameter]:
    """Return the detector's config parameters."""
    second = version == "1.8.0"
    maker = f"Dectris EIGER2 Si {geometry.model}" if second else f"Dectris Eiger {geometry.model}"
    modes = ("eies", "exte", "extg", "exts", "inte", "ints") if second else ("exte", "exts", "inte", "ints")
    rois = (("4M-L", "4M-R") if second else ("4M",)) if geometry.model == "16M" else ()
    fastest = geometry.fastest_16_bit / 2 if second else geometry.fastest_16_bit
    readout = 1e-7 if second else 7e-6
    longest = 3600.0 if second else 1800.0
    parameters = {
        "description": text(maker, access="r"),
        "detector_number": text(serial, access="r"),
        "software_version": text(version, access="r"),
        "eiger_fw_version": text("release-2022.1.2" if second else "1.6.6", access="r"),
        "x_pixels_in_detector": count(geometry.shape[1], "r"),
        "y_pixels_in_detector": count(geometry.shape[0], "r"),
        "x_pixel_size": number(7.5e-5, "m", "r"),
        "y_pixel_size": number(7.5e-5, "m", "r"),
        "sensor_material": text("Si", access="r"),
        "sensor_thickness": number(4.5e-4, "m", "r"),
        "bit_depth_image": count(32, "r"),
        "bit_depth_readout": count(16 if second else 12, "r"),
        "count_time": number(0.5, "s", low=1e-7, high=longest),
        "frame_time": number(0.5 + readout, "s", low=fastest, high=longest + readout),
        "frame_count_time": number(0.00344898, "s", "r"),
        "detector_readout_time": number(readout, "s", "r"),
        "nimages": count(1, low=1),
        "ntrigger": count(1, low=1),
        "trigger_mode": text("ints", *modes),
        "photon_energy": number(8047.78, "eV", low=3500.0, high=40000.0),
        "wavelength": number(1.5406, "angstrom", low=0.309, high=3.543),
        "element": text("Cu", "", *K_ALPHA_EV),
        "threshold_energy": number(4023.89, "eV", low=1700.0, high=20000.0),
        "beam_center_x": number(0.0),
        "beam_center_y": number(0.0),
        "detector_distance": number(0.0, "m", low=0.0),
        "detector_translation": Parameter([0.0, 0.0, 0.0], "float[]", "rw", "m"),
        "auto_summation": flag(True),
        "countrate_correction_applied": flag(True),
        "flatfield_correction_applied": flag(True),
        "pixel_mask_applied": flag(True),
        "virtual_pixel_correction_applied": flag(True),
        "countrate_correction_count_cutoff": count(2500000, "r"),
        "number_of_excluded_pixels": count(0, "r"),
        "compression": text("bslz4", "lz4", "bslz4", "none"),
        "roi_mode": text("disabled", "disabled", *rois),
        "data_collection_date": text("", access="r"),
        "pixel_mask": Parameter(None, "uint[][]"),
        "flatfield": Parameter(None, "float[][]"),
    }
    for axis in ("omega", "chi", "phi", "kappa", "two_theta"):
        parameters[f"{axis}_start"] = number(0.0, "degree")
        parameters[f"{axis}_increment"] = number(0.0, "degree")
    if not second:
        return parameters
    return parameters | {
        "incident_energy": number(8047.78, "eV", low=3500.0, high=40000.0),
        "nexpi": count(1, low=1),
        "trigger_start_delay": number(0.0, "s", low=0.0, high=3600.0),
        "ntriggers_skipped": count(0),
        "extg_mode": text("double", "single", "double"),
        "threshold/1/energy": number(4023.89, "eV", low=1700.0, high=20000.0),
        "threshold/1/mode": text("enabled", *SWITCH),
        "threshold/2/energy": number(11266.89, "eV", low=1700.0, high=60000.0),
        "threshold/2/mode": text("disabled", *SWITCH),
        "threshold/difference/mode": text("disabled", *SWITCH),
        "threshold/difference/lower_threshold": count(1, "r"),
        "threshold/difference/upper_threshold": count(2, "r"),
        "mask_to_zero": flag(False),
        "counting_mode": text("normal", "normal", "retrigger"),
        "fast_arm": flag(False),
        "test_image_mode": text(""),
        "test_image_value": count(0),
        "sample_name": text(""),
        "instrument_name": text(""),
        "source_name": text(""),
        **{f"threshold/{n}/pixel_mask": Parameter(None, "uint[][]") for n in (1, 2)},
        **{f"threshold/{n}/flatfield": Parameter(None, "float[][]") for n in (1, 2)},
    }


MODELS = {
    "500K": (1, 1, 2000.0),
    "1M": (2, 1, 2000.0),
    "4M": (4, 2, 560.0),
    "9M": (6, 3, 230.0),
    "16M": (8, 4, 231.0),
}
"""Modules down and across, and the highest rate in 16 bit, Hz."""

MODULE_AND_GAP = {"1.8.0": ((512, 1028), (38, 12)), "1.6.0": ((514, 1030), (37, 10))}
"""Size of a module, and of the gap between two, (y, x) in pixels, by API version."""

_BAD_PIXELS = 2250 / (32 * 512 * 1028)
"""Share of bad pixels on a real EIGER2 16M."""


@dataclass(frozen=True)
class DetectorGeometry:
    """One detector: its name, size, gaps and fastest 16-bit frame."""

    model: str
    shape: tuple[int, int]
    fastest_16_bit: float
    module: tuple[int, int]
    gap: tuple[int, int]

    def with_roi(self, roi_mode: str) -> DetectorGeometry:
        """Return the size read out in a region of interest: a 16M's ``4M-L``, ``4M-R`` or ``4M``."""
        if roi_mode in ("", "disabled"):
            return self
        return replace(_of_model("4M", self.module, self.gap), model=self.model)


def make_geometry(model: str, version: str, shape: tuple[int, int] | None = None) -> DetectorGeometry:
    """Return the geometry of a model, or one of any `shape` (y, x) of at least 4 x 8 pixels."""
    if model not in tuple(MODELS):
        raise RequestError("model", model, f"one of {', '.join(MODELS)}")
    module, gap = MODULE_AND_GAP[version]
    if shape is None:
        return _of_model(model, module, gap)
    if len(shape) != 2 or shape[0] < 4 or shape[1] < 8:
        raise RequestError("shape", shape, "(y, x) of at least (4, 8)")
    half = (shape[0] // 2 - 1, shape[1])
    small = shape[0] <= module[0] and shape[1] <= module[1]
    module, gap = (half, (2, 0)) if small and shape[0] >= 16 else (module, gap)
    return DetectorGeometry("custom", (int(shape[0]), int(shape[1])), 0.0005, module, gap)


def default_mask(geometry: DetectorGeometry, seed: int) -> np.ndarray:
    """Return the pixel mask, uint32 (y, x): 1 in the gaps, 2 and 16 at seeded dead and noisy pixels."""
    mask = np.zeros(geometry.shape, "u4")
    gaps = [_in_gap(*each) for each in zip(geometry.shape, geometry.module, geometry.gap)]
    mask[gaps[0], :] = 1
    mask[:, gaps[1]] = 1
    rows, columns = (np.flatnonzero(~gap) for gap in gaps)
    n_bad = round(len(rows) * len(columns) * _BAD_PIXELS)
    rng = np.random.default_rng([seed, 1])
    bad = rng.choice((len(rows) - 1) * len(columns), n_bad, replace=False)  # row 0 carries the stamp
    y, x = rows[1 + bad // len(columns)], columns[bad % len(columns)]
    mask[y, x] = np.where(rng.random(n_bad) < 0.5, 2, 16)
    return mask


def _of_model(model: str, module: tuple[int, int], gap: tuple[int, int]) -> DetectorGeometry:
    *numbers, rate = MODELS[model]
    y, x = (int(n) * (m + g) - g for n, m, g in zip(numbers, module, gap))
    return DetectorGeometry(model, (y, x), 1 / rate, module, gap)


def _in_gap(n: int, module: int, gap: int) -> np.ndarray:
    return np.arange(n) % (module + gap) >= module

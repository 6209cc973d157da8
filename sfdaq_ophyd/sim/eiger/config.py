"""The detector's configuration: parameters that stay consistent with one another.

As in wire reference eiger, section 4.1. No HTTP and no clock in here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...errors import RequestError
from ...wire.simplon import Parameter
from . import parameters as table
from .parameters import Geometry, default_mask

ALIASES = {"incident_energy": "photon_energy", "threshold/1/energy": "threshold_energy"}
"""Two names of one parameter."""

ARRAYS = {
    f"{prefix}{what}": what
    for prefix in ("", "threshold/1/", "threshold/2/")
    for what in ("pixel_mask", "flatfield")
}
"""Parameters that are 2-D arrays, and the array each stands for."""

EV_ANGSTROM = 12398.42
CUTOFF_PER_S = 5_000_000


class DetectorConfig:
    """What ``detector/config`` holds.

    Attributes
    ----------
    parameters : dict
        Name to `Parameter`.
    arrays : dict
        ``pixel_mask`` (uint32) and ``flatfield`` (float32), shape (y, x).
    array_names : dict
        Parameters that are 2-D arrays, in this API version, and the array each stands for.
    mask_version : int
        Counts changes of the mask.
    """

    def __init__(self, geometry: Geometry, version: str, serial: str, seed: int):
        self._full, self._version, self._serial, self._seed = geometry, version, serial, seed
        self.array_names = {name: ARRAYS[name] for name in ARRAYS if version == "1.8.0" or "/" not in name}
        self.mask_version = 0
        self.reset()

    def reset(self) -> None:
        """Return to the defaults, as ``initialize`` does."""
        self.geometry = self._full
        self.parameters = table.detector_config(self._full, self._version, self._serial)
        self._reset_arrays()

    def __getitem__(self, name: str):
        return self.parameters[name].value

    def put(self, name: str, value) -> list[str]:
        """Set one parameter and what depends on it; return the names that changed or may have.

        Raises
        ------
        KeyError
            No such parameter.
        RequestError
            Read-only, of the wrong type, or outside the limits.
        """
        parameter = self.parameters[name]
        parameter.check(name, value)
        if parameter.value_type == "float[]":
            value = _floats(name, value, len(parameter.value))
        elif parameter.value_type == "float":
            value = float(value)
        main = ALIASES.get(name, name)
        self.force(main, value)
        follow = getattr(self, "_after_" + main.replace("/", "_"), None)
        if follow is not None:
            follow()
        return self._changed(name)

    def put_array(self, name: str, array: np.ndarray) -> list[str]:
        """Set the pixel mask or flatfield; RequestError unless it has the detector's shape."""
        what = ARRAYS[name]
        if array.shape != self.geometry.shape:
            raise RequestError(name, f"shape {array.shape}", f"shape {self.geometry.shape} (rows, columns)")
        self.arrays[what] = array.astype("u4" if what == "pixel_mask" else "f4")
        self._count_masked()
        return self._changed(what)

    def restore_array(self, name: str) -> None:
        """Return the pixel mask or flatfield to the default."""
        self.arrays[ARRAYS[name]] = self._default(ARRAYS[name])
        self._count_masked()

    def force(self, name: str, value) -> None:
        """Set a parameter, also one that clients may only read, and nothing that depends on it."""
        for same in (name, *(alias for alias, main in ALIASES.items() if main == name)):
            if same in self.parameters:
                self.parameters[same] = replace(self.parameters[same], value=value)

    def thresholds(self) -> list[tuple[int, float]]:
        """Return (id, energy in eV) of every enabled threshold, lowest first."""
        if "threshold/1/mode" not in self.parameters:
            return [(1, self["threshold_energy"])]
        energies = {1: self["threshold_energy"], 2: self["threshold/2/energy"]}
        return [(n, energy) for n, energy in energies.items() if self[f"threshold/{n}/mode"] == "enabled"]

    def _changed(self, name: str) -> list[str]:
        changed = table.CHANGES.get(table.CHANGE_GROUPS.get(name, name), name).split()
        if changed == ["difference_mode"]:
            return changed  # what the real EIGER2 says; no such path exists
        known = {*self.parameters, *self.array_names}
        return [entry for entry in dict.fromkeys([*changed, name]) if entry in known]

    def _after_count_time(self) -> None:
        self.force("frame_time", max(self["frame_time"], self["count_time"] + self["detector_readout_time"]))
        self._after_times()

    def _after_frame_time(self) -> None:
        self.force("count_time", min(self["count_time"], self["frame_time"] - self["detector_readout_time"]))
        self._after_times()

    def _after_times(self) -> None:
        if self["frame_time"] >= 0.01:
            bits = 32
        elif self["frame_time"] >= self.geometry.fastest_16_bit or self._version == "1.6.0":
            bits = 16
        else:
            bits = 8
        self.force("bit_depth_image", bits)
        cutoff = max(1, round(CUTOFF_PER_S * self["count_time"]))
        self.force("countrate_correction_count_cutoff", min(cutoff, 2**bits - 3))

    def _after_photon_energy(self) -> None:
        energy = self["photon_energy"]
        known = next((name for name, ev in table.K_ALPHA_EV.items() if ev == energy), "")
        self.force("element", known if self["element"] == known else "")
        self.force("wavelength", EV_ANGSTROM / energy)
        self.force("threshold_energy", energy / 2)
        if "threshold/2/energy" in self.parameters:
            self.force("threshold/2/energy", 1.4 * energy)
        self.arrays["flatfield"] = self._default("flatfield")

    def _after_wavelength(self) -> None:
        self.force("photon_energy", EV_ANGSTROM / self["wavelength"])
        self._after_photon_energy()

    def _after_element(self) -> None:
        if self["element"]:
            self.force("photon_energy", table.K_ALPHA_EV[self["element"]])
            self._after_photon_energy()

    def _after_roi_mode(self) -> None:
        self.geometry = self._full.with_roi(self["roi_mode"])
        self.force("y_pixels_in_detector", self.geometry.shape[0])
        self.force("x_pixels_in_detector", self.geometry.shape[1])
        self.force("count_time", 0.5)
        self.force("frame_time", 0.5 + self["detector_readout_time"])
        self._after_times()
        self._reset_arrays()

    def _after_beam_center_x(self) -> None:
        sizes = (self["x_pixel_size"], self["y_pixel_size"])
        x, y = self["beam_center_x"] * sizes[0], self["beam_center_y"] * sizes[1]
        self.force("detector_translation", [x, y, -self["detector_distance"]])

    _after_beam_center_y = _after_detector_distance = _after_beam_center_x

    def _after_detector_translation(self) -> None:
        x, y, z = self["detector_translation"]
        self.force("beam_center_x", x / self["x_pixel_size"])
        self.force("beam_center_y", y / self["y_pixel_size"])
        self.force("detector_distance", -z)

    def _after_threshold_2_mode(self) -> None:
        if len(self.thresholds()) < 2:
            self.force("threshold/difference/mode", "disabled")

    _after_threshold_1_mode = _after_threshold_2_mode

    def _after_threshold_difference_mode(self) -> None:
        wanted = self["threshold/difference/mode"]
        self._after_threshold_2_mode()
        if self["threshold/difference/mode"] != wanted:
            raise RequestError("threshold/difference/mode", wanted, "both thresholds to be enabled")

    def _reset_arrays(self) -> None:
        self.arrays = {name: self._default(name) for name in ("pixel_mask", "flatfield")}
        self._count_masked()

    def _count_masked(self) -> None:
        self.mask_version += 1
        self.force("number_of_excluded_pixels", int(np.count_nonzero(self.arrays["pixel_mask"])))

    def _default(self, what: str) -> np.ndarray:
        if what == "pixel_mask":
            return default_mask(self.geometry, self._seed)
        return np.broadcast_to(np.float32(1), self.geometry.shape)


def _floats(name: str, value, n: int) -> list[float]:
    numbers = isinstance(value, list) and all(type(v) in (int, float) for v in value)
    if not numbers or len(value) != n:
        raise RequestError(name, value, f"a list of {n} numbers")
    return [float(v) for v in value]


def masked_value(config: DetectorConfig) -> int | None:
    """Return what masked pixels read; None if the mask is not applied."""
    if not config["pixel_mask_applied"]:
        return None
    to_zero: Parameter | None = config.parameters.get("mask_to_zero")
    return 0 if to_zero is not None and to_zero.value else 2 ** config["bit_depth_image"] - 1

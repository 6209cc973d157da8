"""Modules of the control unit as names to read, write and command, and the config of the detector among them.

As in wire reference eiger, section 4.1. No HTTP and no clock in here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import RequestError
from ...wire.simplon import Parameter
from . import parameters as table
from .parameters import DetectorGeometry, default_mask, measured

ARRAYS = {
    f"{prefix}{array}": array
    for array in ("pixel_mask", "flatfield")
    for prefix in ("", "threshold/1/", "threshold/2/")
}
"""Parameters that are 2-D arrays, and the array each stands for."""

ALIASES = {"incident_energy": "photon_energy", "threshold/1/energy": "threshold_energy"} | ARRAYS
"""Two names of one parameter."""

EV_ANGSTROM = 12398.42
CUTOFF_PER_S = 5_000_000


class Subsystem:
    """One module of the control unit.

    Attributes
    ----------
    config : dict
        Name to `Parameter`.
    commands : dict
        Name to a function or coroutine function, of one argument where `takes_argument` says so; it returns
        the series' number, or None.
    unlisted : frozenset
        Names that can be read but are not in `keys`.
    acquiring : bool
        Of stream and filewriter: whether a series is open for which they were enabled.
    """

    commands: dict[str, Callable[..., Any]] = {}
    unlisted: frozenset[str] = frozenset()

    def __init__(self, version: str):
        self.version = version
        self.reset()

    def _defaults(self) -> dict[str, Parameter]:
        """Return the config parameters as they are after a reset."""
        return {}

    def _status(self) -> dict[str, Parameter]:
        """Return the status parameters as they are now."""
        return {}

    def reset(self) -> None:
        """Begin anew with the default config."""
        self.config, self.acquiring = self._defaults(), False

    def __getitem__(self, name: str) -> Any:
        return self.config[name].value

    def keys(self, task: str) -> list[str]:
        """Return the list the server gives of a task's names."""
        names = set(
            self.commands if task == "command" else self.config if task == "config" else self._status()
        )
        return sorted(names - self.unlisted)

    def read(self, task: str, name: str) -> Parameter:
        """Return one parameter; KeyError if there is no such name."""
        return (self.config if task == "config" else self._status())[name]

    def put(self, name: str, value: Any) -> list[str]:
        """Set one config parameter; return what changed (an empty list outside the detector module).

        Raises
        ------
        KeyError
            No such parameter.
        RequestError
            Read-only, of the wrong type, or outside the limits.
        """
        self.config[name].check(name, value)
        self.force(name, value)
        return []

    def force(self, name: str, value: Any) -> None:
        """Set a parameter, also one that clients may only read, and nothing that depends on it."""
        self.config[name] = replace(self.config[name], value=value)

    def delete(self, name: str) -> None:
        """Restore a parameter; KeyError where that is not offered."""
        raise KeyError(name)

    def takes_argument(self, name: str) -> bool:
        """Whether a command may come with a value."""
        return False

    @property
    def enabled(self) -> bool:
        """Whether the mode is enabled."""
        return self["mode"] == "enabled"

    def _output_state(self) -> Parameter:
        """Return the status ``state`` of stream and filewriter."""
        return measured("acquire" if self.acquiring else "ready" if self.enabled else "disabled")


class DetectorConfig(Subsystem):
    """What ``detector/config`` holds: parameters that stay consistent with one another.

    The values of ``pixel_mask`` (uint32) and ``flatfield`` (float32) are arrays of shape (y, x).

    Attributes
    ----------
    geometry : Geometry
        In the region of interest.
    mask_version : int
        Counts changes of the mask.
    """

    unlisted = frozenset({"wavelength", "error", "detector_translation", *ARRAYS})

    def __init__(self, geometry: DetectorGeometry, version: str, serial: str, seed: int):
        self._full, self._serial, self._seed = geometry, serial, seed
        self.mask_version = 0
        self._armed_mask: np.ndarray | None = None
        super().__init__(version)

    def _defaults(self) -> dict[str, Parameter]:
        return table.detector_config(self._full, self.version, self._serial)

    def reset(self) -> None:
        """Return to the defaults, as ``initialize`` does, but for the pixel mask: the one last kept stays."""
        super().reset()
        self.geometry = self._full
        self._restore("pixel_mask", "flatfield")
        if self._armed_mask is not None:
            self.force("pixel_mask", self._armed_mask)
            self._count_masked()

    def keep_mask(self) -> None:
        """Keep the pixel mask for after a reset, as ``arm`` does; not one of a region of interest."""
        if (mask := self["pixel_mask"]).shape == self._full.shape:
            self._armed_mask = mask

    def put(self, name: str, value: Any) -> list[str]:
        """Set one parameter and what depends on it; return the names that changed or may have."""
        parameter, main = self.read("config", name), ALIASES.get(name, name)
        if name in ARRAYS and isinstance(value, np.ndarray):
            if value.shape != self.geometry.shape:
                expected = f"shape {self.geometry.shape} (rows, columns)"
                raise RequestError(name, f"shape {value.shape}", expected)
            value = value.astype(parameter.value.dtype)
        else:
            parameter.check(name, value)
            if parameter.value_type == "float[]":
                value = _floats(name, value, len(parameter.value))
            elif parameter.value_type == "float":
                value = float(value)
        self.force(main, value)
        self._follow(main)
        return self._changed(name)

    def delete(self, name: str) -> None:
        """Restore the pixel mask or the flatfield."""
        self.read("config", name)
        self._restore(ARRAYS[name])

    def force(self, name: str, value: Any) -> None:
        """Set a parameter under all of its names, and nothing that depends on it."""
        for same in {name, *(alias for alias, main in ALIASES.items() if main == name)}:
            if same in self.config:
                super().force(same, value)

    def thresholds(self) -> list[tuple[int, float]]:
        """Return (id, energy in eV) of every enabled threshold, lowest first."""
        if "threshold/1/mode" not in self.config:
            return [(1, self["threshold_energy"])]
        energies = {1: self["threshold_energy"], 2: self["threshold/2/energy"]}
        return [(n, energy) for n, energy in energies.items() if self[f"threshold/{n}/mode"] == "enabled"]

    def channels(self) -> tuple[str, ...]:
        """Return the names of what every image of the stream brings."""
        difference = "threshold/difference/mode"
        more = ("difference",) if difference in self.config and self[difference] == "enabled" else ()
        return (*(f"threshold_{n}" for n, _ in self.thresholds()), *more)

    def masked_value(self) -> int | None:
        """Return what masked pixels read; None if the mask is not applied."""
        if not self["pixel_mask_applied"]:
            return None
        to_zero = "mask_to_zero" in self.config and self["mask_to_zero"]
        return 0 if to_zero else 2 ** self["bit_depth_image"] - 1

    def _changed(self, name: str) -> list[str]:
        main = ARRAYS.get(name, name)
        changed = table.CHANGES.get(main, [main])
        known = {*self.config, "difference_mode"}
        return [entry for entry in changed if entry in known]

    def _follow(self, name: str) -> None:
        """Change what depends on a parameter that was set."""
        readout, times = self["detector_readout_time"], (self["count_time"], self["frame_time"])
        match name:
            case "count_time":
                self.force("frame_time", max(times[1], times[0] + readout))
                self._follow_times()
            case "frame_time":
                self.force("count_time", min(times[0], times[1] - readout))
                self._follow_times()
            case "photon_energy":
                self._follow_energy()
            case "wavelength":
                self.force("photon_energy", EV_ANGSTROM / self["wavelength"])
                self._follow_energy()
            case "element" if self["element"]:
                self.force("photon_energy", table.K_ALPHA_EV[self["element"]])
                self._follow_energy()
            case "roi_mode":
                self.geometry = self._full.with_roi(self["roi_mode"])
                self.force("y_pixels_in_detector", self.geometry.shape[0])
                self.force("x_pixels_in_detector", self.geometry.shape[1])
                self.force("count_time", 0.5)
                self.force("frame_time", 0.5 + readout)
                self._follow_times()
                self._restore("pixel_mask", "flatfield")
            case "beam_center_x" | "beam_center_y" | "detector_distance":
                x, y = (self[f"beam_center_{axis}"] * self[f"{axis}_pixel_size"] for axis in "xy")
                self.force("detector_translation", [x, y, -self["detector_distance"]])
            case "detector_translation":
                x, y, z = self["detector_translation"]
                self.force("beam_center_x", x / self["x_pixel_size"])
                self.force("beam_center_y", y / self["y_pixel_size"])
                self.force("detector_distance", -z)
            case "threshold/1/mode" | "threshold/2/mode" if len(self.thresholds()) < 2:
                self.force("threshold/difference/mode", "disabled")
            case "threshold/difference/mode" if self[name] == "enabled" and len(self.thresholds()) < 2:
                self.force(name, "disabled")
                raise RequestError(name, "enabled", "both thresholds to be enabled")
            case "pixel_mask":
                self._count_masked()

    def _follow_times(self) -> None:
        if self["frame_time"] >= 0.01:
            bits = 32
        elif self["frame_time"] >= self.geometry.fastest_16_bit or self.version == "1.6.0":
            bits = 16
        else:
            bits = 8
        self.force("bit_depth_image", bits)
        cutoff = max(1, round(CUTOFF_PER_S * self["count_time"]))
        self.force("countrate_correction_count_cutoff", min(cutoff, 2**bits - 3))

    def _follow_energy(self) -> None:
        energy = self["photon_energy"]
        known = next((name for name, ev in table.K_ALPHA_EV.items() if ev == energy), "")
        self.force("element", known if self["element"] == known else "")
        self.force("wavelength", EV_ANGSTROM / energy)
        self.force("threshold_energy", energy / 2)
        self.force("threshold/2/energy", 1.4 * energy)
        self._restore("flatfield")

    def _restore(self, *arrays: str) -> None:
        for name in arrays:
            flat = np.broadcast_to(np.float32(1), self.geometry.shape)
            self.force(name, flat if name == "flatfield" else default_mask(self.geometry, self._seed))
        if "pixel_mask" in arrays:
            self._count_masked()

    def _count_masked(self) -> None:
        self.mask_version += 1
        self.force("number_of_excluded_pixels", int(np.count_nonzero(self["pixel_mask"])))


def _floats(name: str, value, n: int) -> list[float]:
    numbers = isinstance(value, list) and all(type(v) in (int, float) for v in value)
    if not numbers or len(value) != n:
        raise RequestError(name, value, f"a list of {n} numbers")
    return [float(v) for v in value]

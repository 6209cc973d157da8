"""Detectors as the servers see them: modules with settings, power and states, and their buffer files."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from ...wire.detector_name import DetectorName
from .beamline import Tree

BUFFER = "/gpfs/photonics/swissfel/buffer"
FRESH = 30.0
"""A module runs if its LATEST file is younger, s."""

POWER_ON_DELAY = {"alvra": 0.000889, "bernina": 0.000890, "cristallina": 0.000888}
"""s; others 0.004444."""

CONTROL_BOXES = (2, 6, 7, 15, 17)
"""Installations with a power control box."""

CONTROL_BOX = {
    "Temp0 [\u00b0C]": 31.25,
    "Humidity [%]": 12.0,
    "VOut [V]": 12.03,
    "IOut [A]": 5.4,
    "Power state": 1,
}
"""What a simulated control box says."""


@dataclass
class Module:
    """One module."""

    state: str = "idle"
    powered: bool = True
    reachable: bool = True
    exptime: float = 5e-6
    delay: float = 0.00089
    detector_mode: str = "normal"
    gain_mode: str = "dynamic"
    temperature_adc: float = 42
    temperature_fpga: float = 45
    temperature_threshold: float = 55


@dataclass
class DetectorHardware:
    """One detector.

    Parameters
    ----------
    name : str
    configured : bool
        Whether the DAQ server knows its modules; "No modules added" otherwise.
    box : dict
        What its power control box says, if it has one.
    box_failure : OSError, optional
        Raised where the box is asked: nobody answers there.
    """

    name: str
    configured: bool = False
    modules: list[Module] = field(default_factory=list)
    box_failure: OSError | None = None
    box: dict[str, float] = field(default_factory=lambda: dict(CONTROL_BOX))

    def __post_init__(self):
        self.modules = self.modules or [Module() for _ in range(DetectorName.parse(self.name).n_modules)]

    @property
    def installation(self) -> int:
        """The number behind JF."""
        return DetectorName.parse(self.name).installation

    def check_configured(self) -> None:
        """Refuse as the detector library does if the server does not know the modules."""
        if not self.configured:
            raise RuntimeError("No modules added")

    @property
    def running(self) -> bool:
        """Whether all modules take frames."""
        return self.configured and all(module.state == "running" for module in self.modules)

    def set_state(self, state: str) -> None:
        """Bring all modules into a state."""
        for module in self.modules:
            module.state = state

    def grouped(self, name: str) -> dict[str, list[int]]:
        """Return ``{value: [modules]}`` of an attribute."""
        groups: dict[str, list[int]] = {}
        for number, module in enumerate(self.modules):
            groups.setdefault(getattr(module, name), []).append(number)
        return groups

    def readback(self, name: str) -> Any:
        """Return a setting; where modules differ, times as a list and gain modes as ``{mode: [modules]}``.

        The servers cannot tell detector modes that differ: TypeError.
        """
        groups = self.grouped(name)
        if len(groups) == 1:
            return next(iter(groups))
        if name == "detector_mode":
            raise TypeError("unhashable type: 'list'")
        return groups if name == "gain_mode" else [getattr(module, name) for module in self.modules]

    def apply(self, name: str, value: Any) -> None:
        """Set one setting of all modules, or of some given as ``{mode: [modules]}``."""
        if name in ("exptime", "delay"):
            if not isinstance(value, int | float):
                raise TypeError(f"set{name.title()}(): incompatible function arguments: {value!r}")
            if value < 0:
                raise RuntimeError(f"Could not set {name}: {value}")
            value = float(value)
        for mode, numbers in (
            value if isinstance(value, dict) else {value: range(len(self.modules))}
        ).items():
            if name.endswith("_mode") and mode not in MODES[name]:
                raise TypeError(f"set{name.title()}(): incompatible function arguments: 'unknown'")
            for number in numbers:
                setattr(self.modules[number], name, mode)


MODES = {
    "detector_mode": ("normal", "low_noise"),
    "gain_mode": ("dynamic", "fixed_gain1", "fixed_gain2"),
}


class Hardware:
    """All detectors, and the buffer they write into.

    Parameters
    ----------
    tree : Tree
    """

    def __init__(self, tree: Tree):
        self._tree = tree
        self._detectors: dict[str, DetectorHardware] = {}

    def __getitem__(self, name: str) -> DetectorHardware:
        return self._detectors.setdefault(name, DetectorHardware(name))

    def latest(self, name: str, module: int) -> str:
        """Return the path of the file whose age tells whether a module writes."""
        return f"{BUFFER}/{name}/M{module:02d}/LATEST"

    def write_latest(self, name: str, module: int, age: float = 0.0) -> None:
        """Make a module's LATEST file look `age` s old."""
        path = self.latest(name, module)
        self._tree.make(path.rsplit("/", 1)[0])
        local = self._tree.local(path)
        local.touch()
        then = time.time() - age
        os.utime(local, (then, then))

    def refresh(self, name: str, triggered: bool) -> None:
        """Let the modules that take frames write into the buffer."""
        detector = self._detectors.get(name)
        if detector is None or not (detector.configured and triggered):
            return
        for number, module in enumerate(detector.modules):
            if module.state == "running" and module.reachable and module.powered:
                self.write_latest(name, number)

    def writing(self, name: str) -> list[bool]:
        """Say for each module whether it wrote in the last 30 s; the future counts."""
        ages = []
        for number in range(DetectorName.parse(name).n_modules):
            local = self._tree.local(self.latest(name, number))
            ages.append(time.time() - local.stat().st_mtime if local.exists() else FRESH)
        return [age < FRESH for age in ages]

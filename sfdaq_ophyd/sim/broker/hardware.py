"""Detectors of each beamline, and as the servers see them: settings, power and states, buffer files.

The tables are those of the wire reference sf-daq-broker, section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...wire.broker import Dialect
from ...wire.broker_parameters import DETECTOR_MODES, GAIN_MODES
from ...wire.detector_name import DetectorName

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


class DetectorHardware:
    """One detector.

    Attributes
    ----------
    configured : bool
        Whether the DAQ server knows its modules; "No modules added" otherwise.
    box : dict
        What its power control box says, if it has one.
    box_failure : OSError or None
        Raised where the box is asked: nobody answers there.
    installation : int
        The number behind JF.
    """

    def __init__(self, name: str):
        parsed = DetectorName.parse(name)
        self.name, self.installation, self.configured = name, parsed.installation, False
        self.modules = [Module() for _ in range(parsed.n_modules)]
        self.box, self.box_failure = dict(CONTROL_BOX), None

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
        modes = value if isinstance(value, dict) else {value: range(len(self.modules))}
        for mode, numbers in modes.items():
            if name.endswith("_mode") and mode not in MODES[name]:
                raise TypeError(f"set{name.title()}(): incompatible function arguments: 'unknown'")
            for number in numbers:
                setattr(self.modules[number], name, mode)


MODES = {"detector_mode": DETECTOR_MODES, "gain_mode": GAIN_MODES}


@dataclass(frozen=True, slots=True)
class DetectorEntry:
    """One line of the server's table."""

    name: str
    description: str
    server: int

    @property
    def visualisation_address(self) -> str:
        """Where its live view is."""
        return f"sf-daq-{self.server}:{5000 + DetectorName.parse(self.name).installation}"


Table = dict[str, tuple[DetectorEntry, ...]]
"""Detectors by beamline, in the order the server lists them."""


def _table(**beamlines: str) -> Table:
    return {
        beamline: tuple(
            DetectorEntry(name.strip(), (description or name).strip(), int(server))
            for name, server, description in (line.split("|") for line in lines.strip().splitlines())
        )
        for beamline, lines in beamlines.items()
    }


CURRENT = _table(
    alvra="""
        JF02T09V03|12|Alvra: von Hamos (4.5M)
        JF06T08V07|12|Alvra: 4M version of 16M (4M)
        JF06T32V07|12|Alvra (16M)
        JF08T01V01|13|Alvra: Visual Light (0.5M)
        JF09T01V01|13|Alvra: Flex (0.5M)
        JF10T01V01|13|Alvra: Flex-Stripsel (0.5M)
        JF11T04V01|13|Alvra: TXS (2M)""",
    bernina="""
        JF01T03V01|12|Bernina (1.5M)
        JF03T01V02|12|Bernina: I0 (0.5M)
        JF04T01V01|12|Bernina: Fluorescence (0.5M)
        JF05T01V01|10|Cristallina: Stripsel (0.5M)
        JF07T32V02|13|Bernina (16M)
        JF13T01V01|13|Bernina: Vacuum (0.5M)
        JF14T01V01|13|Bernina: RIXS (0.5M)""",
    cristallina="""
        JF16T03V02|10|Cristallina-Q (1.5M)
        JF17T16V01|10|Cristallina-MX (8M)
        JF20T01V01|10|Cristallina-Q: I0 (0.5M)
        JF21T01V01|10|
        JF22T01V01|10|""",
    maloja="""
        JF15T08V01|9|Maloja (4M)""",
    furka="""
        JF18T01V01|9|Furka: RIXS (0.5M)
        JF19T01V01|9|Furka: UHV (0.5M)""",
)
DOCUMENTED = _table(
    alvra="""
        JF02T09V03|12|von Hamos 4.5M
        JF06T08V04|12|4M version of 16M detector
        JF06T32V04|12|16M detector
        JF08T01V01|13|Visual light detector, 1 module
        JF09T01V01|13|Flex, 1 module
        JF10T01V01|13|Flex-stripsel, 1 module
        JF11T04V01|13|TXS, 4 modules detector""",
    bernina="""
        JF01T03V01|12|1p5M Bernina detector
        JF03T01V02|12|Bernina I0, 1 module
        JF04T01V01|12|Fluorescence, 1 module
        JF05T01V01|12|Stripsel, 1 module
        JF07T32V02|13|16M detector
        JF13T01V01|13|Vacuum detector
        JF14T01V01|13|RIXS detector""",
    cristallina="""
        JF16T03V01|10|Cristallina-Q, 3 modules detector, 1p5M
        JF17T16V01|10|Cristallina-MX, 16 modules detector, 8M""",
    maloja="""
        JF15T08V01|9|Maloja, 8 modules detector, 4M""",
    furka="""
        JF18T01V01|9|Furka, RIXS detector""",
)


def table_of(dialect: Dialect) -> Table:
    """Return the server's table; the caller may change it."""
    return dict(CURRENT if dialect == "current" else DOCUMENTED)


def beamline_with(table: Table, detector_name: str) -> str | None:
    """Return the beamline a detector belongs to, None if it is in no table."""
    return next((bl for bl, entries in table.items() if detector_name in [e.name for e in entries]), None)

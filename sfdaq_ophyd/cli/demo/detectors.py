"""What the demo scans with: one entry per detector, as a user would make it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ... import devices
from ...sim import Facility


@dataclass(frozen=True)
class Exhibit:
    """A detector of the demo.

    Parameters
    ----------
    part : str
        The simulator it needs.
    make : callable
        Called with the facility, the folder for files and the `PulseId`; returns the device.
    """

    part: str
    make: Callable


def eiger(facility: Facility, folder: Path, pulse_id):
    """Make an Eiger that this program arms and triggers over HTTP."""
    return devices.Eiger(facility.eiger.url, name="eiger", directory=folder)


def jungfrau(facility: Facility, folder: Path, pulse_id):
    """Make a Jungfrau from its module streams, calibrated with constants from files."""
    from ...files.constants import load_calibration

    sim = facility.jungfrau
    constants = sim.scene.write_constants(folder.parent / "constants")
    calibration = load_calibration(sim.detector_name, constants.gain, constants.pedestal)
    return devices.Jungfrau(
        sim.endpoints,
        name="jf",
        detector_name=sim.detector_name,
        directory=folder,
        calibration=calibration,
        pulse_id=pulse_id,
    )


EXHIBITS = {
    "Eiger": Exhibit("eiger", eiger),
    "Jungfrau": Exhibit("jungfrau", jungfrau),
}
"""By the device's class."""


def available() -> list[Exhibit]:
    """Return the exhibits whose device is there."""
    return [exhibit for name, exhibit in EXHIBITS.items() if hasattr(devices, name)]

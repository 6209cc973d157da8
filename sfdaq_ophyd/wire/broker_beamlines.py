"""Beamlines: the networks of their consoles, and the PVs that go with them (contract sections 2.2, 12)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Beamline:
    """What the DAQ knows of one beamline.

    Parameters
    ----------
    name : str
    subnet : str
        First eleven characters of its consoles' addresses: the broker has no beamline parameter.
    pulse_id_pv : str
        Today's pulse id, a double.
    event_code_pv : str
        Trigger of all detectors of the beamline: 254 runs, 255 is stopped.
    """

    name: str
    subnet: str
    pulse_id_pv: str
    event_code_pv: str


def _beamline(name: str, subnet: int, evr: str, evg: str) -> Beamline:
    return Beamline(name, f"129.129.{subnet}", f"{evr}:RX-PULSEID", f"{evg}-EVG0:SoftEvt-EvtCode-SP")


BEAMLINES: dict[str, Beamline] = {
    beamline.name: beamline
    for beamline in (
        _beamline("alvra", 242, "SLAAR11-LTIM01-EVR0", "SAR-CVME-TIFALL4"),
        _beamline("bernina", 243, "SLAAR21-LTIM01-EVR0", "SAR-CVME-TIFALL5"),
        _beamline("cristallina", 244, "SARES30-LTIM01-EVR0", "SAR-CVME-TIFALL6"),
        _beamline("diavolezza", 245, "SATES30-CVME-EVR0", "SAT-CVME-TIFALL4"),
        _beamline("maloja", 246, "SATES20-CVME-EVR0", "SAT-CVME-TIFALL5"),
        _beamline("furka", 247, "SATES30-CVME-EVR0", "SAT-CVME-TIFALL6"),
    )
}
"""By name, in the order of their networks."""

SUBNET_LENGTH = 11
"""Characters of an address that decide."""


def beamline_of_address(address: str) -> Beamline | None:
    """Return the beamline a client address belongs to, None if it is nobody's.

    Examples
    --------
    >>> beamline_of_address("129.129.243.17").name
    'bernina'
    """
    subnet = address[:SUBNET_LENGTH]
    return next((beamline for beamline in BEAMLINES.values() if beamline.subnet == subnet), None)

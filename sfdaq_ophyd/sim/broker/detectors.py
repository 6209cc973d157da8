"""Detectors of each beamline, in each dialect (wire reference sf-daq-broker, section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass

from ...wire.broker import Dialect
from ...wire.detector_name import DetectorName
from .refusals import ValidationError


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


def detectors_of(table: Table, beamline: str) -> tuple[DetectorEntry, ...]:
    """Return a beamline's detectors; RuntimeError if it has none."""
    if beamline not in table:
        raise RuntimeError(f"no detectors configured for beamline {beamline}")
    return table[beamline]


def check_belongs(table: Table, beamline: str, *detectors: str) -> None:
    """Refuse detectors of other beamlines, in order."""
    allowed = [entry.name for entry in detectors_of(table, beamline)]
    for name in detectors:
        if name not in allowed:
            raise ValidationError(
                f"detector {name} does not belong to beamline {beamline}",
                f"{name} not belongs to the {beamline}",
            )

"""A run number in use, and an acquisition made under it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ...wire.broker_reply import Retrieval
from ...wire.pulse_id import PulseRange
from ._run_table import RunTable
from ._step import Axis, Point, axes_of, scan_info


@dataclass
class BrokerRun:
    """One run number in use.

    Parameters
    ----------
    number : int
    pgroup : str
    table : RunTable
    uid : str
        Of Bluesky's run; empty where it is not known.
    axes : tuple of Axis, or None
        What the run moves, frozen with its first acquisition.
    new : bool
        The number was given out for this run, so there can be no data of it yet.
    """

    number: int
    pgroup: str
    table: RunTable
    uid: str = ""
    axes: tuple[Axis, ...] | None = None
    n_asked: int = 0
    new: bool = True

    def scan_info(self, point: Point | None) -> dict[str, Any] | None:
        """Return what goes into ``meta/scan.json`` for a point."""
        if point is None:
            return None
        if self.axes is None:
            self.axes = axes_of(point)
        return scan_info(point, self.axes)


@dataclass(frozen=True)
class Asked:
    """An acquisition the broker has accepted."""

    index: int
    run: BrokerRun
    pulses: PulseRange
    retrieval: Retrieval
    time: float = field(default_factory=time.time)

    @property
    def values(self) -> dict[str, Any]:
        """What goes into the event."""
        return {
            "run_number": self.retrieval.run_number,
            "acquisition_number": self.retrieval.acquisition_number,
            "unique_acquisition_number": self.retrieval.unique_acquisition_number,
            "start_pulse_id": self.pulses.first,
            "stop_pulse_id": self.pulses.last,
            "files": list(self.retrieval.files),
        }

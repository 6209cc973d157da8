"""One run number of the broker, and the acquisitions that it has accepted for it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...wire.broker_reply import Retrieval
from ...wire.pulse_id import PulseRange
from ._follower import Announced
from ._run_table import COMPLETE, FAILED, RunTable
from ._scan_info import Axis, Point, axes_of, scan_info


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
    n_acquisitions: int = 0
    new: bool = True

    def scan_info(self, point: Point | None) -> dict[str, Any] | None:
        """Return what goes into ``meta/scan.json`` for a point.

        Parameters
        ----------
        point : Point or None

        Returns
        -------
        dict or None
        """
        if point is None:
            return None
        if self.axes is None:
            self.axes = axes_of(point)
        return scan_info(point, self.axes)


@dataclass(frozen=True)
class AcceptedAcquisition:
    """An acquisition that the broker has accepted; its files come later."""

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


def request_labels(run_uid: str = "", **more: Any) -> dict[str, Any]:
    """Return the fields of a request that only say whose it is; each time with a new request id.

    Parameters
    ----------
    run_uid : str
        Of Bluesky's run; empty without one.
    **more
        Further fields.

    Returns
    -------
    dict
    """
    uid = {"bluesky_run_uid": run_uid} if run_uid else {}
    return {"client_name": "sfdaq_ophyd", "client_request_id": str(uuid.uuid4()), **uid, **more}


def announced(
    table: RunTable, row: Mapping[str, Any], timeout: float, heard_as: Mapping[str, str] | None = None
) -> Announced:
    """Return the files of an acquisition, to be followed and noted.

    Parameters
    ----------
    table : RunTable
    row : mapping
        What it says of the acquisition.
    timeout : float
        s; see `Announced`.
    heard_as : mapping of str to str, optional
        Source to what the file is called on the status exchange.

    Returns
    -------
    Announced
    """

    def note(found: list[dict], failures: dict[str, str]) -> None:
        table.write(FAILED if failures else COMPLETE, row["index"], found=found, failures=failures)

    asked = row["asked"]
    return Announced(
        row["index"],
        {source: Path(path) for source, path in row["expected"].items()},
        range(*asked["range"]) if "range" in asked else asked["ids"],
        timeout,
        Path(row["aligned"]),
        note,
        row["gaps"],
        row.get("names", {}),
        dict(heard_as or {}),
    )

"""One run with its number: what is asked for, the acquisitions that were accepted, and the axes it moves."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

from ...errors import RequestError
from ...wire.broker_reply import Retrieval
from ...wire.broker_request import RetrieveRequest
from ...wire.pulse_id import PulseRange, check_rate_multiplicator, check_whole
from ._run_table import CHANNELS, RunTable
from ._scan_info import Axis, Point, axes_of, scan_info

INTEGERS = (
    "run_number",
    "acquisition_number",
    "unique_acquisition_number",
    "start_pulse_id",
    "stop_pulse_id",
)
"""Keys of an acquisition that are whole numbers."""


class PulseClock(Protocol):
    """What tells the pulse of the moment: a `PulseId`, which is never computed."""

    def get(self) -> int:
        """Return the pulse id of this moment."""

    def check(self, timeout: float | None = None, n_pulses: int = 10) -> float:
        """Return its rate, Hz."""

    def wait_past(self, pulse_id: int) -> Any:
        """Return a status of the wait for a pulse after `pulse_id`."""


@dataclass(frozen=True)
class Settings:
    """What is asked for with every acquisition: the values of the device's signals."""

    pgroup: str
    n_pulses: int
    rate_multiplicator: int
    detectors: Mapping[str, Mapping[str, Any]]
    channels: Sequence[str]
    cameras: Sequence[str]
    pvs: Sequence[str]
    user_tag: str
    append_user_tag: bool
    tolerate_missing: bool
    tolerate_missing_channels: bool
    file_timeout: float
    max_pedestal_age: float
    timeout: float

    def request(self, pulses: PulseRange, **more: Any) -> RetrieveRequest:
        """Return the request for pulses, with `more` of its fields; RequestError names a wrong setting."""
        return RetrieveRequest(
            pgroup=self.pgroup,
            pulses=pulses,
            rate_multiplicator=self.rate_multiplicator,
            detectors=self.detectors,
            channels=self.channels,
            cameras=self.cameras,
            pvs=self.pvs,
            user_tag=self.user_tag or None,
            append_user_tag_to_data_dir=bool(self.user_tag) and bool(self.append_user_tag),
            **more,
        )

    def check(self, name: str) -> RetrieveRequest:
        """Return a request with made-up pulses; RequestError names the device's signal that is wrong."""
        rate = check_rate_multiplicator(self.rate_multiplicator)
        n_pulses = check_whole(self.n_pulses, f"{name}.n_pulses")
        for limit in ("file_timeout", "timeout"):
            seconds = getattr(self, limit)
            if not isinstance(seconds, Real) or not 0 < float(seconds) < float("inf"):
                raise RequestError(f"{name}.{limit}", seconds, "a number of s above 0")
        try:
            return self.request(PulseRange.next_frames(0, n_pulses, rate))
        except RequestError as exc:
            raise RequestError(f"{name}.{exc.field}", exc.value, exc.expected) from exc

    def tolerates(self, source: str) -> bool:
        """Say of a source whether its file may lack frames, or channels."""
        return bool(self.tolerate_missing_channels if source in CHANNELS else self.tolerate_missing)


def request_labels(run_uid: str = "", **more: Any) -> dict[str, Any]:
    """Return the fields of a request that only say whose it is; each time with a new request id."""
    uid = {"bluesky_run_uid": run_uid} if run_uid else {}
    return {"client_name": "sfdaq_ophyd", "client_request_id": str(uuid.uuid4()), **uid, **more}


@dataclass
class BrokerRun:
    """One run number in use.

    Attributes
    ----------
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

    def next_index(self) -> int:
        """Return the index of one more acquisition, from 0."""
        self.n_acquisitions += 1
        return self.n_acquisitions - 1

    def scan_info(self, point: Point | None) -> dict[str, Any] | None:
        """Return what goes into ``meta/scan.json`` for a point of a scan."""
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

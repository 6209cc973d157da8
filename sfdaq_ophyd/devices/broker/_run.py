"""Run numbers of the broker: each taken once, named, used by one run, and no more once that has ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...clients import BrokerClient, StatusListener
from ...errors import DetectorStateError, Discarded
from ...wire.broker import padded
from ...wire.broker_reply import Retrieval
from ...wire.pulse_id import PulseRange
from ._follower import Announced, FileFollower
from ._preflight import pedestals_in_use
from ._run_table import COMPLETE, FAILED, RETAKEN, RUN, RunTable, TableRow, tables_of
from ._scan_info import Axis, Point, axes_of, scan_info
from ._settings import Settings

logger = logging.getLogger(__name__)

INTEGERS = (
    "run_number",
    "acquisition_number",
    "unique_acquisition_number",
    "start_pulse_id",
    "stop_pulse_id",
)
"""Keys of an acquisition that are whole numbers."""

_ALONE = (
    "this RunEngine has no run_number_wrapper: the files are registered by register_late(catalog) after the "
    "run. sfdaq_ophyd.setup(RE), or RE.preprocessors.append(run_number_wrapper), has it done before"
)


class PulseClock(Protocol):
    """What tells the pulse of the moment: a `PulseId`, which is never computed."""

    def get(self) -> int:
        """Return the pulse id of this moment."""

    def check(self, timeout: float | None = None, n_pulses: int = 10) -> float:
        """Return its rate, Hz."""

    def wait_past(self, pulse_id: int) -> Any:
        """Return a status of the wait for a pulse after `pulse_id`."""


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


def announced(
    table: RunTable, row: TableRow, timeout: float, heard_as: Mapping[str, str] | None = None
) -> Announced:
    """Return the files of an acquisition, to be followed and noted.

    Parameters
    ----------
    table : RunTable
    row : TableRow
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

    return Announced(
        row["index"],
        {source: Path(path) for source, path in row["expected"].items()},
        row.pulses,
        timeout,
        Path(row["aligned"]),
        note,
        row["gaps"],
        row.get("names", {}),
        dict(heard_as or {}),
    )


class RunNumbers:
    """Take run numbers, one run at a time, and know which run is in use.

    Parameters
    ----------
    name : str
        Of the device.
    client : BrokerClient
    settings : callable
        Returns what the device's signals say now.
    pulse_id : PulseClock or None
        Without one, nothing is acquired.
    directory : Path
        Where run tables and aligned views go.
    beamline : str
    warns_alone : bool
        Whether to say so when the files of a run will have to be registered late.
    listener : StatusListener, optional
        Of the status exchange; started with the first run.
    """

    def __init__(
        self,
        name: str,
        client: BrokerClient,
        settings: Callable[[], Settings],
        pulse_id: PulseClock | None,
        directory: Path,
        *,
        beamline: str = "",
        warns_alone: bool = True,
        listener: StatusListener | None = None,
    ):
        self.name, self.client, self.directory, self.listener = name, client, directory, listener
        self._settings, self._pulse_id, self._beamline = settings, pulse_id, beamline
        self.follower = FileFollower(name, listener.board if listener is not None else None)
        self.run: BrokerRun | None = None
        self._ended: BrokerRun | None = None
        self._n_ended = 0
        self._uid, self._warns_alone = "", warns_alone
        self._lock = threading.Lock()

    @property
    def pulse_id(self) -> PulseClock:
        """The pulse clock; DetectorStateError if there is none."""
        if self._pulse_id is None:
            raise DetectorStateError(
                f"{self.name}: no pulse-id PV: give pulse_id or beamline; pulse ids are never made up"
            )
        return self._pulse_id

    def take_run_number(self) -> dict[str, Any]:
        """Take a run number as a run opens, and begin its table.

        Returns
        -------
        dict
            For the start document: ``run_number``, and `run_facts`.
        """
        self._listen()
        with self._lock:
            pgroup = self._settings().pgroup
            self.run = self._new_run(pgroup, self.client.advance_run_number(pgroup), "open_run")
        return {"run_number": self.run.number, **self.run_facts()}

    def run_in_use(
        self, point: Point | None, check: Callable[[], None], number: int | None = None
    ) -> BrokerRun:
        """Return the run in use; if there is none, take a number for one.

        Parameters
        ----------
        point : Point or None
            Of a scan.
        check : callable
            Raises if the caller was given up, or its run has ended: what an abort leaves behind must not
            ask for data of another run, or cost a second number.
        number : int, optional
            To go on with, in place of a new one.

        Returns
        -------
        BrokerRun
        """
        check()
        self._uid = self._uid or (point.run if point is not None else "")
        run = self.run or self.run_of(self._uid)  # unstaged and staged again within Bluesky's run
        if run is None:
            if self._warns_alone and not self._uid:
                self._warns_alone = False
                logger.warning("%s: %s", self.name, _ALONE)
            self._listen()
            with self._lock:
                pgroup, new = self._settings().pgroup, number is None
                number = self.client.advance_run_number(pgroup) if number is None else number
                run = self._new_run(pgroup, number, "first_acquisition", new=new)
        self.run = run
        return run

    def _new_run(self, pgroup: str, number: int, policy: str, *, new: bool = True) -> BrokerRun:
        path = self.directory / pgroup / f"run{padded(number)}-{int(time.time() * 1000)}.jsonl"
        run = BrokerRun(number, pgroup, RunTable(path), self._uid, new=new)
        facts = {"pgroup": pgroup, "beamline": self._beamline, "policy": policy}
        uid = {"run_uid": self._uid} if self._uid else {}
        run.table.write(RUN, None, device=self.name, run_number=number, **facts, **uid)
        logger.info("%s: run number %d of %s", self.name, number, pgroup)
        return run

    def _listen(self) -> None:
        if self.listener is not None:
            self.listener.start()

    def run_facts(self) -> dict[str, Any]:
        """Return what goes into every start document: pgroup, beamline, and the pedestals in use."""
        settings = self._settings()
        pedestals = pedestals_in_use(settings, self.client.sf_root, self.directory)
        found = {"pedestals": pedestals} if pedestals else {}
        return {"pgroup": settings.pgroup, "beamline": self._beamline, **found}

    def name_run(self, uid: str) -> None:
        """Note the uid of Bluesky's run, whose number is taken or will be, for the table and each request.

        Parameters
        ----------
        uid : str
        """
        self._uid = uid
        if self.run is not None:
            self.run.uid = uid
            self.run.table.write(RUN, run_uid=uid)

    def same_run(self) -> Callable[[], None]:
        """Return what raises Discarded as soon as the run of this moment has ended."""
        n_ended = self._n_ended

        def check() -> None:
            if self._n_ended != n_ended:
                raise Discarded(f"{self.name}: the run ended before its data were asked for")

        return check

    def run_of(self, uid: str) -> BrokerRun | None:
        """Return the run in use, or the one ended last, if it is that of Bluesky's run.

        Parameters
        ----------
        uid : str
            Of Bluesky's run.

        Returns
        -------
        BrokerRun or None
        """
        runs = (self.run, self._ended)
        return next((run for run in runs if run is not None and run.uid == uid != ""), None)

    def note_unsaved(self, uid: str, indices: Sequence[int]) -> None:
        """Note of acquisitions that were read that no event has them.

        Parameters
        ----------
        uid : str
            Of Bluesky's run.
        indices : sequence of int
            Of acquisitions in the run, from 0.
        """
        if (run := self.run_of(uid)) is not None:
            for index in indices:
                run.table.write(RETAKEN, index)

    def end_run(self) -> None:
        """Use the number no more; its files are still followed. Safe twice."""
        self._n_ended += 1
        self._ended = self.run or self._ended
        self.run, self._uid = None, ""
        self.follower.end_run()

    def closed_tables(self) -> list[RunTable]:
        """Return the run tables of this device, the oldest first, without that of the run in use."""
        in_use = self.run and self.run.table.path
        return [table for table in tables_of(self.name, self.directory) if table.path != in_use]

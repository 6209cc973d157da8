"""Asking for data: the run number in use, the request, its line in the run table, and its files followed."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...clients import BrokerClient, StatusListener
from ...errors import BrokerRefused, Discarded, RunNumberMismatch, SfdaqError, UnknownOutcome
from ...files.daq_file import BSDATA, CAMERAS, PVDATA
from ...wire.broker import padded, raw_file
from ...wire.broker_parameters import is_converted, is_processed
from ...wire.broker_reply import Retrieval
from ...wire.broker_request import RetrieveRequest
from ...wire.pulse_id import PulseRange
from ._follower import Announced, FileFollower
from ._run_table import ASKED, ASKING, REFUSED, RUN, UNKNOWN, RunTable, note_checked, tables_of
from ._settings import Axis, Point, axes_of, scan_info

logger = logging.getLogger(__name__)


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


_ALONE = (
    "this RunEngine has no run_number_wrapper: the files are registered by register_late(catalog) after the "
    "run. sfdaq_ophyd.setup(RE), or RE.preprocessors.append(run_number_wrapper), has it done before"
)

_OLD_RUN = (
    "%s: the broker gave out run number %d of %s as new, but its first acquisition is number %d: the data go "
    "into a run that has data already. Was LAST_RUN set back?"
)


class Asking:
    """Ask the broker for data, one run at a time.

    Parameters
    ----------
    name : str
        Of the device.
    client : BrokerClient
    directory : Path
        Where run tables and aligned views go.
    listener : StatusListener, optional
        Of the status exchange; started with the first run.
    """

    def __init__(
        self, name: str, client: BrokerClient, directory: Path, listener: StatusListener | None = None
    ):
        self._name, self._client, self.directory = name, client, directory
        self.listener = listener
        self.follower = FileFollower(name, listener.board if listener is not None else None)
        self.run: BrokerRun | None = None
        self._ended: BrokerRun | None = None
        self._n_ended = 0
        self._uid, self._told_late = "", False
        self._lock = threading.Lock()

    def begin_run(self, pgroup: str, facts: Mapping[str, Any], number: int | None = None) -> BrokerRun:
        """Take a run number, or go on with one taken before, and begin its table."""
        if self.listener is not None:
            self.listener.start()
        new = number is None
        with self._lock:
            if number is None:
                number = self._client.advance_run_number(pgroup)
            path = self.directory / pgroup / f"run{padded(number)}-{int(time.time() * 1000)}.jsonl"
            self.run = BrokerRun(number, pgroup, RunTable(path), self._uid, new=new)
            uid = {"run_uid": self._uid} if self._uid else {}
            self.run.table.write(RUN, device=self._name, run_number=number, pgroup=pgroup, **facts, **uid)
        logger.info("%s: run number %d of %s", self._name, number, pgroup)
        return self.run

    def use_run(
        self, device: Any, number: int | None = None, go_on: Callable[[], None] = lambda: None
    ) -> BrokerRun:
        """Return the run in use; if there is none, go on with `number`, or take a new one.

        `go_on` raises if the caller was given up, or its run has ended: what an abort leaves behind must
        not ask for data of another run, or cost a second number.
        """
        go_on()
        point = device.next_point.current
        self._uid = self._uid or (point.run if point is not None else "")
        if self.run is None:
            self.run = self.run_of(self._uid)  # unstaged and staged again within Bluesky's run
        if self.run is None:
            if not (self._uid or self._told_late or device.register == "late"):
                self._told_late = True
                logger.warning("%s: %s", self._name, _ALONE)
            facts = {"beamline": device.beamline, "policy": "first_acquisition"}
            self.begin_run(device.pgroup.get(), facts, number)
        return self.run

    def name_run(self, uid: str) -> None:
        """Note the uid of Bluesky's run, whose number is taken or will be."""
        self._uid = uid
        if self.run is not None:
            self.run.uid = uid
            self.run.table.write(RUN, run_uid=uid)

    def same_run(self) -> Callable[[], None]:
        """Return what raises Discarded as soon as the run of this moment has ended."""
        n_ended = self._n_ended

        def check() -> None:
            if self._n_ended != n_ended:
                raise Discarded(f"{self._name}: the run ended before its data were asked for")

        return check

    def run_of(self, uid: str) -> BrokerRun | None:
        """Return the run in use, or the one ended last, if it belongs to Bluesky's run `uid`."""
        runs = (self.run, self._ended)
        return next((run for run in runs if run is not None and run.uid == uid != ""), None)

    def closed_tables(self) -> list[Path]:
        """Return the run tables of this device, the oldest first, without that of the run in use."""
        in_use = self.run and self.run.table.path
        return [path for path in tables_of(self._name, self.directory) if path != in_use]

    def end_run(self) -> None:
        """Use the number no more; its files are still followed. Safe twice."""
        self._n_ended += 1
        self._ended = self.run or self._ended
        self.run, self._uid = None, ""

    def ask(
        self,
        run: BrokerRun,
        request: RetrieveRequest,
        file_timeout: float,
        tolerates: Callable[[str], bool],
    ) -> Asked:
        """Send a request for a run and follow its files.

        `tolerates` says of a source whether its file may lack frames or channels.

        Raises
        ------
        BrokerRefused, UnknownOutcome, RunNumberMismatch, ServiceUnreachable
            Each leaves its line in the run table.
        """
        request_id = request.extra["client_request_id"]
        index, run.n_asked = run.n_asked, run.n_asked + 1
        pulses = request.pulses
        span = {"start_pulse_id": pulses.first, "stop_pulse_id": pulses.last}
        run.table.write(ASKING, index, client_request_id=request_id, **span)
        try:
            retrieval = self._client.retrieve_from_buffers(request)
        except RunNumberMismatch as exc:
            run.table.write(UNKNOWN, index, reason=str(exc), files=list(exc.reply.files))
            raise
        except UnknownOutcome as exc:
            run.table.write(UNKNOWN, index, reason=str(exc))
            raise
        except SfdaqError as exc:
            nothing_done = not isinstance(exc, BrokerRefused) or exc.nothing_done
            run.table.write(REFUSED if nothing_done else UNKNOWN, index, reason=str(exc))
            raise
        if run.new and index == 0 and retrieval.acquisition_number > 1:
            logger.warning(_OLD_RUN, self._name, run.number, run.pgroup, retrieval.acquisition_number)
        asked = Asked(index, run, pulses, retrieval)
        files, gaps = self._expected(request, retrieval, tolerates)
        frames = frames_of(request)
        names = {PVDATA: request.pvs, BSDATA: request.channels, CAMERAS: request.cameras}
        names = {source: list(given) for source, given in names.items() if source in files}
        aligned = self.directory / run.pgroup / f"run{padded(run.number)}-aligned"
        run.table.write(
            ASKED,
            index,
            **asked.values,
            asked_at=asked.time,
            expected={source: str(path) for source, path in files.items()},
            gaps=gaps,
            names=names,
            aligned=str(aligned),
            asked=_compact(frames),
        )
        logger.info("%s: run %d, acquisition %d, %s", self._name, run.number, index + 1, pulses)
        note = note_checked(run.table, index)
        heard_as = dict(zip(files, retrieval.files))
        self.follower.follow(
            Announced(index, files, frames, file_timeout, aligned, note, gaps, names, heard_as)
        )
        return asked

    def _expected(
        self, request: RetrieveRequest, retrieval: Retrieval, tolerates: Callable[[str], bool]
    ) -> tuple[dict[str, Path], dict[str, bool]]:
        """Return where each source's file will be here, and whether it may lack frames."""
        selected = bool(request.selected_pulse_ids)
        files, gaps = {}, {}
        for file in retrieval.files:
            source = file.rsplit(".", 2)[1]
            parameters = request.detectors.get(source, {})
            if is_converted(parameters, selected_pulse_ids=selected) and not is_processed(
                parameters, selected_pulse_ids=selected
            ):
                file = raw_file(file)  # what is announced never appears
            files[source] = self._client.local_path(file)
            gaps[source] = tolerates(source) or bool(parameters.get("save_ppicker_events_only"))
        return files, gaps


def frames_of(request: RetrieveRequest) -> range | list[int]:
    """Return the pulses that have a frame when none is lost."""
    if request.selected_pulse_ids:
        return sorted(request.selected_pulse_ids)
    inner = request.pulses.aligned(request.rate_multiplicator) if request.detectors else request.pulses
    step = request.rate_multiplicator
    return range(-(-inner.first // step) * step, inner.last + 1, step)


def _compact(frames: range | list[int]) -> dict[str, list[int]]:
    if isinstance(frames, range):
        return {"range": [frames.start, frames.stop, frames.step]}
    return {"ids": frames}


def labels(run: BrokerRun | None, **more: Any) -> dict[str, Any]:
    """Return the fields of a request that only say whose it is."""
    uid = {"bluesky_run_uid": run.uid} if run is not None and run.uid else {}
    return {"client_name": "sfdaq_ophyd", "client_request_id": str(uuid.uuid4()), **uid, **more}


Procedure = Callable[..., Any]
"""``function(patience, **arguments)``: a service call that may take long."""

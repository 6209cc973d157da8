"""The way of a run through the broker: its number, requests for its data, their lines in the table, files."""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...clients import BrokerClient, StatusListener
from ...clients.broker_transport import MAX_JSON, read_json
from ...errors import (
    BrokerRefused,
    DetectorStateError,
    Discarded,
    FilesMissing,
    FramesMissing,
    RequestError,
    RunNumberMismatch,
    ServiceTimeout,
    SfdaqError,
    UnknownOutcome,
)
from ...files.daq_file import BSDATA, CAMERAS, PVDATA
from ...limits import Limit
from ...wire.broker import padded, raw_file
from ...wire.broker_parameters import is_converted, is_processed
from ...wire.broker_reply import Retrieval
from ...wire.broker_request import RetrieveRequest
from ...wire.pulse_id import PulseRange
from ._data_streams import data_streams
from ._follower import FileFollower, announced
from ._preflight import pedestals_in_use
from ._run import (
    ACCEPTED,
    COMPLETE,
    FAILED,
    NOT_ASKED,
    REFUSED,
    RETAKEN,
    RUN,
    SENDING,
    UNKNOWN,
    AcceptedAcquisition,
    BrokerRun,
    PulseSource,
    RunTable,
    Settings,
    TableRow,
    request_labels,
    tables_of,
)
from ._scan_info import Point

logger = logging.getLogger(__name__)

PERIOD = 0.05
"""s between two looks at what is still awaited."""

_ALONE = (
    "this RunEngine has no run_number_wrapper: the files are registered by register_late(catalog) after the "
    "run. sfdaq_ophyd.setup(RE), or RE.preprocessors.append(run_number_wrapper), has it done before"
)
_OLD_RUN = (
    "%s: the broker gave out run number %d of %s as new, but its first acquisition is number %d: the data go "
    "into a run that has data already. Was LAST_RUN set back?"
)


class Waiting(Protocol):
    """How a caller waits: a `JobStatus`, which can be given up."""

    def show(self, current: float, target: float, seen: str) -> None:
        """Tell how far it is."""

    def pause(self, seconds: float) -> None:
        """Let time go by; raises once the caller is given up."""


class BrokerRunner:
    """Take run numbers, ask for data, and follow the files, one run at a time.

    A number is taken once, used by one run, and no more once that has ended. Where methods take a `uid`, it
    is that of Bluesky's run.

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
        pulse_id: PulseSource | None,
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
        self._changing = threading.Lock()
        self._uid, self._warns_alone = "", warns_alone

    @property
    def pulse_id(self) -> PulseSource:
        """The pulse clock; DetectorStateError if there is none."""
        if self._pulse_id is None:
            raise DetectorStateError(
                f"{self.name}: no pulse-id PV: give pulse_id or beamline; pulse ids are never made up"
            )
        return self._pulse_id

    # the number

    def take_run_number(self) -> dict[str, Any]:
        """Take a run number as a run opens, begin its table, and return what goes into the start document."""
        self._listen()
        pgroup = self._settings().pgroup
        self.run = self._new_run(pgroup, self.client.advance_run_number(pgroup))
        return {"run_number": self.run.number, **self.run_facts()}

    def run_facts(self) -> dict[str, Any]:
        """Return what goes into every start document: pgroup, beamline, and the pedestals in use."""
        pgroup, detectors = self._settings().pgroup, self._settings().detectors
        pedestals = pedestals_in_use(pgroup, detectors, self.client.sf_root, self.directory)
        found = {"pedestals": pedestals} if pedestals else {}
        return {"pgroup": pgroup, "beamline": self._beamline, **found}

    def name_run(self, uid: str) -> None:
        """Note the uid of Bluesky's run, whose number is taken or will be, for the table and each request."""
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

        Raises
        ------
        RequestError
            The device's pgroup is not that of the run in use any more.
        """
        with self._changing:
            check()
            self._uid = self._uid or (point.run if point is not None else "")
            run = self.run or self.run_of(self._uid)  # unstaged and staged again within Bluesky's run
        if run is None:
            if self._warns_alone and not self._uid:
                self._warns_alone = False
                logger.warning("%s: %s", self.name, _ALONE)
            self._listen()
            pgroup, new = self._settings().pgroup, number is None
            number = self.client.advance_run_number(pgroup) if number is None else number
            check()
            run = self._new_run(pgroup, number, new=new)
        pgroup = self._settings().pgroup
        if run.pgroup != pgroup:  # whose run of this number is another one
            expected = f"{run.pgroup}, of which run {run.number} is; end that run first"
            raise RequestError(f"{self.name}.pgroup", pgroup, expected)
        with self._changing:  # it may have ended while the broker was asked: nobody goes on with it then
            check()
            self.run = run
        return run

    def _listen(self) -> None:
        if self.listener is not None:
            self.listener.start()

    def _new_run(self, pgroup: str, number: int, *, new: bool = True) -> BrokerRun:
        path = self.directory / pgroup / f"run{padded(number)}-{int(time.time() * 1000)}.jsonl"
        run = BrokerRun(number, pgroup, RunTable(path), self._uid, new=new)
        facts = {"pgroup": pgroup, "beamline": self._beamline}
        uid = {"run_uid": self._uid} if self._uid else {}
        run.table.write(RUN, None, device=self.name, run_number=number, **facts, **uid)
        logger.info("%s: run number %d of %s", self.name, number, pgroup)
        return run

    def run_of(self, uid: str) -> BrokerRun | None:
        """Return the run in use, or the one ended last, if it is that of `uid`."""
        runs = (self.run, self._ended)
        return next((run for run in runs if run is not None and run.uid == uid != ""), None)

    # requests

    def acquire(
        self, pulses: PulseRange, point: Point | None, run: BrokerRun, pulse_ids: Sequence[int] = ()
    ) -> AcceptedAcquisition:
        """Send the request for pulses that are over: all of them, or only `pulse_ids`.

        Parameters
        ----------
        pulses : PulseRange
            They must be in the buffers already; this does not wait.
        point : Point or None
            Of a scan; goes into the request's ``scan_info``.
        run : BrokerRun
            As of `run_in_use`.
        pulse_ids : sequence of int
            Of those in `pulses`; empty for all.

        Returns
        -------
        AcceptedAcquisition
            What goes into the event. Its files are followed from now on.

        Raises
        ------
        RequestError
            The broker takes no such request; nothing was sent.
        BrokerRefused, RunNumberMismatch, UnknownOutcome, ServiceUnreachable
            As of `BrokerClient.retrieve_from_buffers`; how it ended is in the run's table as well.
        """
        request = self._settings().request(
            pulses,
            run_number=run.number,
            scan_info=run.scan_info(point),
            selected_pulse_ids=pulse_ids,
            extra=request_labels(run.uid),
        )
        return self._send(run, request)

    def acquire_again(
        self,
        point: Point | None,
        check: Callable[[], None],
        path: str,
        changes: Mapping[str, Any] | None = None,
    ) -> AcceptedAcquisition:
        """Ask once more for what a ``meta/acqNNNN.json`` says, with changes of its fields.

        Parameters
        ----------
        point : Point or None
            As for `run_in_use`.
        check : callable
            As for `run_in_use`.
        path : str
            One of `saved_requests`.
        changes : mapping, optional
            Fields of the request to others; not ``run_number``.

        Returns
        -------
        AcceptedAcquisition
            In the run in use or, where there is none, in the old one.

        Raises
        ------
        RequestError
            The file holds no request, or it is not to be sent with these changes; nothing was sent.
        BrokerRefused, RunNumberMismatch, UnknownOutcome, ServiceUnreachable
            As of `acquire`.
        """
        file, old = Path(path), _saved_request(path, changes)
        run = self.run_in_use(point, check, old.run_number)
        origin = {"rerun_of": f"run{padded(old.run_number or 0)}/{file.stem}"}
        labels = request_labels(run.uid, **origin)
        request = dataclasses.replace(
            old, run_number=run.number, pgroup=run.pgroup, extra={**old.extra, **labels}
        )
        return self._send(run, request)

    def saved_requests(
        self,
        run_number: int,
        acquisition_number: int | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Return the paths of ``meta/acqNNNN.json`` of a run, or of one acquisition.

        Parameters
        ----------
        run_number : int
            Of the pgroup in use.
        acquisition_number : int, optional
            Only this one.
        changes : mapping, optional
            Fields of the requests that are to be changed, as for `acquire_again`.

        Returns
        -------
        list of str
            On this machine, sorted.

        Raises
        ------
        RequestError
            There is none, as where ``/sf`` is not mounted here; or one is not to be sent with these
            `changes`.
        """
        pgroup, root = self._settings().pgroup, self.client.sf_root
        runs = f"*/data/{pgroup}/raw/run{padded(run_number)}"
        name = "acq*.json" if acquisition_number is None else f"acq{padded(acquisition_number)}.json"
        found = (
            [] if root is None else [*root.glob(f"{runs}/meta/{name}"), *root.glob(f"{runs}-*/meta/{name}")]
        )
        if not found:
            raise RequestError("run_number", run_number, f"a run of {pgroup} with data, below {root}")
        paths = sorted(map(str, found))
        for path in paths:
            _saved_request(path, changes)
        return paths

    def leave_out(self, run: BrokerRun | None, first: int, last: int | None) -> None:
        """Say in the log, and in the table of a run if there is one, that pulses were not asked for.

        Parameters
        ----------
        run : BrokerRun or None
            Whose they are.
        first : int
            The first such pulse.
        last : int or None
            The last one, included; None if it is not known how far they go.
        """
        span = "on" if last is None else f"to {last}"
        reason = (
            f"pulses from {first} {span} were not asked for, since the fly scan ended before; the plan "
            f"retrieve_from_buffers({self.name}, {first}, {last or '...'}) gets what the buffers still have"
        )
        logger.warning("%s: %s", self.name, reason)
        if run is not None:
            facts = {"start_pulse_id": first, "stop_pulse_id": last or 0, "reason": reason, "files": []}
            run.table.write(NOT_ASKED, run.next_index(), **facts)

    def _send(self, run: BrokerRun, request: RetrieveRequest) -> AcceptedAcquisition:
        """Send a request for a run and follow its files; each way it ends has its line in the table."""
        index, pulses = run.next_index(), request.pulses
        span = {"start_pulse_id": pulses.first, "stop_pulse_id": pulses.last}
        run.table.write(SENDING, index, client_request_id=request.extra["client_request_id"], **span)
        try:
            retrieval = self.client.retrieve_from_buffers(request)
        except RunNumberMismatch as exc:
            run.table.write(UNKNOWN, index, reason=str(exc), files=list(exc.files))
            raise
        except SfdaqError as exc:
            unknown = isinstance(exc, UnknownOutcome) or (
                isinstance(exc, BrokerRefused) and not exc.nothing_done
            )
            run.table.write(UNKNOWN if unknown else REFUSED, index, reason=str(exc))
            raise
        if run.new and index == 0 and retrieval.acquisition_number > 1:
            logger.warning(_OLD_RUN, self.name, run.number, run.pgroup, retrieval.acquisition_number)
        logger.info("%s: run %d, acquisition %d, %s", self.name, run.number, index + 1, pulses)
        accepted = AcceptedAcquisition(index, run, pulses, retrieval)
        self._follow(accepted, request)
        return accepted

    def _follow(self, accepted: AcceptedAcquisition, request: RetrieveRequest) -> None:
        """Note what was accepted, with all that is needed to follow its files, and follow them."""
        index, run, settings = accepted.index, accepted.run, self._settings()
        files, gaps, filtered = self._expected(request, accepted.retrieval, settings)
        asked = {PVDATA: request.pvs, BSDATA: request.channels, CAMERAS: request.cameras}
        facts = {
            "expected": {source: str(path) for source, path in files.items()},
            "gaps": gaps,
            "filtered": filtered,
            "names": {source: list(given) for source, given in asked.items() if source in files},
            "aligned": str(self.directory / run.pgroup / f"run{padded(run.number)}-aligned"),
            "asked": _asked(request),
        }
        run.table.write(ACCEPTED, index, **accepted.values, asked_at=accepted.time, **facts)
        heard_as = dict(zip(files, accepted.retrieval.files))
        row = TableRow(index=index, **facts)
        self.follower.follow(announced(run.table, row, float(settings.file_timeout), heard_as))

    def _expected(
        self, request: RetrieveRequest, retrieval: Retrieval, settings: Settings
    ) -> tuple[dict[str, Path], dict[str, bool], list[str]]:
        """Return where each source's file will be, whether it may lack frames, and the filtered detectors."""
        selected = bool(request.selected_pulse_ids)
        files: dict[str, Path] = {}
        gaps: dict[str, bool] = {}
        filtered = []
        for file in retrieval.files:
            source = file.rsplit(".", 2)[1]
            parameters = request.detectors.get(source, {})
            if is_converted(parameters, selected_pulse_ids=selected) and not is_processed(
                parameters, selected_pulse_ids=selected
            ):
                file = raw_file(file)  # what is announced never appears
            files[source] = self.client.local_path(file)
            picked = bool(parameters.get("save_ppicker_events_only"))
            gaps[source] = settings.tolerates(source) or picked
            if gaps[source] and (picked or selected):  # selected pulses without a frame are a loss, else
                filtered.append(source)
        return files, gaps, filtered

    # the end of a run

    def note_unsaved(self, uid: str, indices: Sequence[int]) -> None:
        """Note of acquisitions that were read, by their index in the run, that no event has them."""
        if (run := self.run_of(uid)) is not None:
            for index in indices:
                run.table.write(RETAKEN, index)

    def wait_for_files(self, status: Waiting, uid: str) -> None:
        """Wait until no file is awaited any more; each of them has its own limit.

        Raises
        ------
        ServiceTimeout
            Nothing new was seen for too long.
        """
        run = self.run_of(uid)
        if run is None:
            return
        seconds = float(self._settings().file_timeout) + 30
        limit, last = Limit(seconds), (0, "")
        while left := self.follower.n_pending:
            now = left, self.follower.last_seen
            if now != last:
                limit.restart()
            status.show(max(0, run.n_acquisitions - left), max(1, run.n_acquisitions), now[1])
            if limit.reached():
                what = f"{self.name}: files of {left} acquisitions"
                raise ServiceTimeout(what, seconds, now[1])
            last = now
            status.pause(PERIOD)

    def streams(self, uid: str) -> list[tuple[str, Any]]:
        """Return what is to be collected of a run now: names of streams, and flyers that have flown."""
        run = self.run_of(uid)
        return data_streams(self.name, run.table) if run is not None else []

    def demand_data(self, uid: str) -> None:
        """Use the run's number no more; raise FilesMissing or FramesMissing if some are missing."""
        run = self.run_of(uid)
        self.end_run()
        if run is None:
            return
        rows = run.table.rows()
        reasons = {
            path: why for row in rows if row["state"] == FAILED for path, why in row["failures"].items()
        }
        if reasons:
            raise FilesMissing(f"{self.name}: run {run.number}", reasons)
        for row in rows:
            if row["state"] == COMPLETE and row["read"] and not row.is_gap_free:
                lacking = (found for found in row.arrays if not found["filtered"])
                worst = min(lacking, key=lambda found: found["n_got"])
                where = f"run {run.number}, acquisition {row['acquisition_number']}, {worst['key']}"
                raise FramesMissing(
                    f"{self.name}: {where}",
                    asked=worst["n_asked"],
                    got=worst["n_got"],
                    missing=worst["missing"],
                )

    def end_run(self) -> None:
        """Use the number no more; its files are still followed. Safe twice."""
        with self._changing:
            self._n_ended += 1
            self._ended = self.run or self._ended
            self.run, self._uid = None, ""
        self.follower.end_run()

    def closed_tables(self) -> list[RunTable]:
        """Return the run tables of this device, the oldest first, without that of the run in use."""
        in_use = self.run and self.run.table.path
        return [table for table in tables_of(self.name, self.directory) if table.path != in_use]


def _asked(request: RetrieveRequest) -> dict[str, list[int]]:
    """Return the pulses that have a frame when none is lost, as the run table has them."""
    if request.selected_pulse_ids:
        return {"ids": sorted(request.selected_pulse_ids)}
    inner = request.pulses.aligned(request.rate_multiplicator) if request.detectors else request.pulses
    step = request.rate_multiplicator
    return {"range": [-(-inner.first // step) * step, inner.last + 1, step]}


_RUN_FOLDER = re.compile(r"run(-?\d{1,18})(-.*)?", re.ASCII)


def _saved_request(path: str, changes: Mapping[str, Any] | None) -> RetrieveRequest:
    """Return the request in a ``meta/acqNNNN.json``, with some changes; RequestError if it is none.

    Its number is that of the run in whose folder it lies: data of one run never go into another because a
    file says so.
    """
    if not (saved := read_json(Path(path))):
        raise RequestError("path", path, f"a file with a JSON object, of at most {MAX_JSON} bytes")
    changes = dict(changes or {})
    if "run_number" in changes:
        raise RequestError("changes", "run_number", "other fields: same_run tells whose number is used")
    old = RetrieveRequest.from_wire(saved | changes)
    run = Path(path).parent.parent.name
    folder = _RUN_FOLDER.fullmatch(run)
    if folder is None:  # a copy somewhere else
        return old
    if old.run_number not in (None, int(folder[1])):
        raise RequestError("run_number", old.run_number, f"a request of {run}, in whose folder it is")
    return dataclasses.replace(old, run_number=int(folder[1]))

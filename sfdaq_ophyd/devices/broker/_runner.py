"""The way of a run through the broker: requests for its data, their lines in the table, and its files."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...clients.broker_transport import MAX_JSON, read_json
from ...errors import (
    BrokerRefused,
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
from ._run import AcceptedAcquisition, BrokerRun, RunNumbers, announced
from ._run_table import (
    ACCEPTED,
    COMPLETE,
    FAILED,
    NOT_ASKED,
    REFUSED,
    SENDING,
    UNKNOWN,
    TableRow,
)
from ._scan_info import Point
from ._settings import Settings, request_labels

logger = logging.getLogger(__name__)

PERIOD = 0.05
"""s between two looks at what is still awaited."""

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


class BrokerRunner(RunNumbers):
    """Take run numbers, ask for data, and follow the files, one run at a time; see `RunNumbers`."""

    def acquire(
        self, pulses: PulseRange, point: Point | None, run: BrokerRun, pulse_ids: Sequence[int] = ()
    ) -> AcceptedAcquisition:
        """Send the request for pulses that are over.

        Parameters
        ----------
        pulses : PulseRange
        point : Point or None
            Of a scan.
        run : BrokerRun
            See `run_in_use`.
        pulse_ids : sequence of int
            Those to keep; default all.

        Returns
        -------
        AcceptedAcquisition
        """
        request = self._settings().request(
            pulses,
            run_number=run.number,
            scan_info=run.scan_info(point),
            selected_pulse_ids=pulse_ids,
            extra=request_labels(run.uid),
        )
        return self._send(run, request)

    def leave_out(self, run: BrokerRun | None, first: int, last: int | None) -> None:
        """Say in the log, and in the table of a run if there is one, that pulses were not asked for.

        Parameters
        ----------
        run : BrokerRun or None
        first, last : int
            Both ends included; None if it is not known how far they go.
        """
        span = "on" if last is None else f"to {last}"
        reason = (
            f"pulses from {first} {span} were not asked for, since the fly scan ended before; the plan "
            f"retrieve_from_buffers({self.name}, {first}, {last or '...'}) gets what the buffers still have"
        )
        logger.warning("%s: %s", self.name, reason)
        if run is not None:
            index, run.n_acquisitions = run.n_acquisitions, run.n_acquisitions + 1
            facts = {"start_pulse_id": first, "stop_pulse_id": last or 0, "reason": reason, "files": []}
            run.table.write(NOT_ASKED, index, **facts)

    def saved_requests(self, run_number: int, acquisition_number: int | None = None) -> list[str]:
        """Return the ``meta/acqNNNN.json`` of a run, or of one acquisition.

        Parameters
        ----------
        run_number : int
        acquisition_number : int, optional

        Returns
        -------
        list of str
            Paths, in order.

        Raises
        ------
        RequestError
            There is none.
        """
        pgroup, root = self._settings().pgroup, self.client.sf_root
        runs = f"*/data/{pgroup}/raw/run{padded(run_number)}"
        name = "acq*.json" if acquisition_number is None else f"acq{padded(acquisition_number)}.json"
        found = (
            [] if root is None else [*root.glob(f"{runs}/meta/{name}"), *root.glob(f"{runs}-*/meta/{name}")]
        )
        if not found:
            raise RequestError("run_number", run_number, f"a run of {pgroup} with data, below {root}")
        return sorted(map(str, found))

    def acquire_again(
        self,
        point: Point | None,
        check: Callable[[], None],
        path: str,
        changes: Mapping[str, Any] | None = None,
    ) -> AcceptedAcquisition:
        """Ask once more for what ``meta/acqNNNN.json`` says, for the run in use.

        Parameters
        ----------
        point, check
            See `run_in_use`.
        path : str
            Of the file.
        changes : mapping, optional
            Of its fields.

        Returns
        -------
        AcceptedAcquisition
        """
        file = Path(path)
        if not (saved := read_json(file)):
            raise RequestError("path", path, f"a file with a JSON object, of at most {MAX_JSON} bytes")
        old = RetrieveRequest.from_wire(saved | dict(changes or {}))
        run = self.run_in_use(point, check, old.run_number)
        origin = {"rerun_of": f"run{padded(old.run_number or 0)}/{file.stem}"}
        extra = {key: value for key, value in old.extra.items() if key != "client_request_id"}
        labels = request_labels(run.uid, **origin)
        request = dataclasses.replace(
            old, run_number=run.number, pgroup=run.pgroup, extra={**extra, **labels}
        )
        return self._send(run, request)

    def _send(self, run: BrokerRun, request: RetrieveRequest) -> AcceptedAcquisition:
        """Send a request for a run and follow its files.

        Raises
        ------
        BrokerRefused, UnknownOutcome, RunNumberMismatch, ServiceUnreachable
            Each leaves its line in the run table.
        """
        request_id = request.extra["client_request_id"]
        index, run.n_acquisitions = run.n_acquisitions, run.n_acquisitions + 1
        pulses = request.pulses
        span = {"start_pulse_id": pulses.first, "stop_pulse_id": pulses.last}
        run.table.write(SENDING, index, client_request_id=request_id, **span)
        try:
            retrieval = self.client.retrieve_from_buffers(request)
        except RunNumberMismatch as exc:
            run.table.write(UNKNOWN, index, reason=str(exc), files=list(exc.files))
            raise
        except UnknownOutcome as exc:
            run.table.write(UNKNOWN, index, reason=str(exc))
            raise
        except SfdaqError as exc:
            nothing_done = not isinstance(exc, BrokerRefused) or exc.nothing_done
            run.table.write(REFUSED if nothing_done else UNKNOWN, index, reason=str(exc))
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
        files, gaps = self._expected(request, accepted.retrieval, settings)
        asked = {PVDATA: request.pvs, BSDATA: request.channels, CAMERAS: request.cameras}
        facts = {
            "expected": {source: str(path) for source, path in files.items()},
            "gaps": gaps,
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
            files[source] = self.client.local_path(file)
            gaps[source] = settings.tolerates(source) or bool(parameters.get("save_ppicker_events_only"))
        return files, gaps

    # the end of a run

    def wait_for_files(self, status: Waiting, uid: str) -> None:
        """Wait until no file is awaited any more; each of them has its own limit.

        Parameters
        ----------
        status : Waiting
        uid : str
            Of Bluesky's run.

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
        """Return what is to be collected of a run now: names of streams, and flyers that have flown.

        Parameters
        ----------
        uid : str
            Of Bluesky's run.

        Returns
        -------
        list of (str, flyer)
        """
        run = self.run_of(uid)
        return data_streams(self.name, run.table) if run is not None else []

    def demand_data(self, uid: str) -> None:
        """Use the run's number no more; raise if files or frames are missing.

        Parameters
        ----------
        uid : str
            Of Bluesky's run.

        Raises
        ------
        FilesMissing, FramesMissing
        """
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
                worst = min(row.arrays, key=lambda found: found["n_got"])
                where = f"run {run.number}, acquisition {row['acquisition_number']}, {worst['key']}"
                raise FramesMissing(
                    f"{self.name}: {where}",
                    asked=worst["n_asked"],
                    got=worst["n_got"],
                    missing=worst["missing"],
                )


def _asked(request: RetrieveRequest) -> dict[str, list[int]]:
    """Return the pulses that have a frame when none is lost, as the run table has them."""
    if request.selected_pulse_ids:
        return {"ids": sorted(request.selected_pulse_ids)}
    inner = request.pulses.aligned(request.rate_multiplicator) if request.detectors else request.pulses
    step = request.rate_multiplicator
    return {"range": [-(-inner.first // step) * step, inner.last + 1, step]}

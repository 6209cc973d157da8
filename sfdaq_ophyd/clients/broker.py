"""Client of the sf-daq broker: one method per call of both services."""

from __future__ import annotations

import dataclasses
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BrokerRefused, RequestError, RunNumberMismatch, UnknownOutcome
from ..wire import broker_operations as ops
from ..wire.broker import PEDESTAL_FRAMES, SF, local_path
from ..wire.broker_parameters import check_detector, check_names, check_pgroup
from ..wire.broker_reply import AllowedDetectors, Retrieval, RunningDetectors
from ..wire.broker_request import RetrieveRequest, check_extra, pedestal_request
from ..wire.pulse_id import PULSE_RATE, PulseRange, check_rate_multiplicator
from .broker_slow import SlowCalls
from .broker_transport import REQUEST_ID, BrokerTransport, find_retrieval


class BrokerTrap(UserWarning):
    """A request is legal and will be accepted, and some of its data will not come."""


class MainCalls(BrokerTransport):
    """Calls to port 10002; see `BrokerClient`."""

    def get_allowed_detectors(self) -> AllowedDetectors:
        """Return the detectors that belong to this console's beamline."""
        return self.call(ops.GET_ALLOWED_DETECTORS)

    def get_running_detectors(self) -> RunningDetectors:
        """Return which detectors write into the buffer; up to 30 s late after one stops."""
        return self.call(ops.GET_RUNNING_DETECTORS)

    def power_on_detector(self, detector_name: str, *, extra: Mapping[str, Any] | None = None) -> str:
        """Queue a full restart of a detector and of the beamline's trigger; return the broker's words.

        Takes seconds to minutes; all detectors of the beamline miss frames meanwhile. Poll
        `get_detector_status` until running, then `get_running_detectors`. Failure is visible only on the
        status exchange. Never repeated: each call queues another restart.
        """
        body = {**check_extra(extra), "detector_name": check_detector(detector_name)}
        return self.call(ops.POWER_ON_DETECTOR, body)

    def advance_run_number(self, pgroup: str, *, extra: Mapping[str, Any] | None = None) -> int:
        """Take a new run number.

        Parameters
        ----------
        extra : mapping, optional
            Further fields for the server's log, such as the uid of the run.

        Raises
        ------
        UnknownOutcome
            The reply was lost. Never repeated by itself: each executed call uses up a number. Take
            another, gaps are harmless.
        """
        body = {**check_extra(extra), "pgroup": check_pgroup(pgroup)}
        return self.call(ops.ADVANCE_RUN_NUMBER, body)

    def get_current_run_number(self, pgroup: str) -> int:
        """Return the last number given out, 0 if none; with several clients not necessarily one's own.

        A closed pgroup is refused.
        """
        return self.call(ops.GET_CURRENT_RUN_NUMBER, {"pgroup": check_pgroup(pgroup)})

    def retrieve_from_buffers(self, request: RetrieveRequest, *, timeout: float | None = None) -> Retrieval:
        """Ask for the data of past pulses: one acquisition of a run.

        "ok" means queued: the files come 0 to 60 s later, or never. Each request gets a
        ``client_request_id`` of its own. If the reply is lost and the client knows `sf_root`, the id is
        looked up in the run's ``meta/`` and the reply rebuilt from it.

        Parameters
        ----------
        request : RetrieveRequest
            Checked already when it was made.
        timeout : float, optional
            Limit in s.

        Warns
        -----
        BrokerTrap
            Parameters that are accepted, and lose data.

        Raises
        ------
        BrokerRefused
            `nothing_done` tells whether data may have been requested although the reply is an error.
        RunNumberMismatch
            The data went into another run.
        UnknownOutcome
            The reply was lost and there is no proof that the request was carried out. Never repeated.
        """
        for trap in request.traps():
            warnings.warn(trap, BrokerTrap, stacklevel=2)
        extra = {REQUEST_ID: str(uuid.uuid4()), **request.extra}
        request = dataclasses.replace(request, extra=extra)
        try:
            answer = self.call(ops.RETRIEVE_FROM_BUFFERS, request.to_wire(), timeout=timeout)
        except UnknownOutcome:
            found = self._recover(request)
            if found is None:
                raise
            answer = found
        if request.run_number is not None and answer.run_number != request.run_number:
            raise RunNumberMismatch(asked=request.run_number, got=answer.run_number, reply=answer)
        return answer

    def _recover(self, request: RetrieveRequest) -> Retrieval | None:
        if self.sf_root is None:
            return None
        request_id = str(request.extra[REQUEST_ID])
        return find_retrieval(
            self.sf_root, request.pgroup, request_id, request.run_number, timeout=self.recover_timeout
        )

    def retrieve_range(self, request: RetrieveRequest, pulses: PulseRange) -> list[Retrieval]:
        """Ask for a range of any length, split into acquisitions of the one run of `request`.

        Parameters
        ----------
        request : RetrieveRequest
            With a run number; its own `pulses` are not used.
        pulses : PulseRange
            Split such that every part holds at least one frame.
        """
        if request.run_number is None:
            request = dataclasses.replace(request, run_number=self.advance_run_number(request.pgroup))
        parts = pulses.split(rate_multiplicator=request.rate_multiplicator)
        return [self.retrieve_from_buffers(dataclasses.replace(request, pulses=part)) for part in parts]

    def take_pedestal(
        self,
        pgroup: str,
        detectors: Sequence[str],
        *,
        rate_multiplicator: int = 1,
        pedestalmode: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> float:
        """Queue a pedestal and return the least time it takes, s.

        The beam must be off the detectors. The reply says only that it was queued: done is when each
        ``<stamp>.<DET>.log`` in ``JF_pedestals/`` has its closing line. ``run_log_level`` is always sent:
        today's writer fails without. Never repeated.

        Parameters
        ----------
        pedestalmode : bool
            The detector switches gains itself: 200 s times `rate_multiplicator`.
        extra : mapping, optional
            Fields stored in ``<stamp>.json``, by which one's own pedestal is found.

        Returns
        -------
        float
            The server's announcement (a promise, not a fact), or 200 s per `rate_multiplicator` if longer.
        """
        body = pedestal_request(
            pgroup, detectors, rate_multiplicator=rate_multiplicator, pedestalmode=pedestalmode, extra=extra
        )
        self.call(ops.TAKE_PEDESTAL, body)
        return pedestal_time(rate_multiplicator, pedestalmode)

    def get_pvlist(self) -> list[str]:
        """Return the PVs that the beamline's epics buffer records."""
        return self.call(ops.GET_PVLIST)

    def set_pvlist(self, pvs: Iterable[str]) -> list[str]:
        """Replace the whole list of recorded PVs, and return what was stored.

        The epics buffer restarts: a short gap in all PVs. Two clients can overwrite each other: read,
        merge, compare, and write only a changed list. An empty list erases it.
        """
        return self.call(ops.SET_PVLIST, {"pv_list": check_names(pvs, "pv_list")})

    def close_pgroup_writing(self, pgroup: str, *, confirm: str) -> None:
        """Close a pgroup for ever: no more runs, pedestals or copies; archiving starts.

        Parameters
        ----------
        confirm : str
            The pgroup once more.
        """
        if confirm != check_pgroup(pgroup):
            raise RequestError("confirm", confirm, f"{pgroup!r} once more: closing cannot be undone")
        try:
            self.call(ops.CLOSE_PGROUP_WRITING, {"pgroup": pgroup})
        except UnknownOutcome:
            try:
                self.call(ops.CLOSE_PGROUP_WRITING, {"pgroup": pgroup})
            except BrokerRefused as exc:
                if "already closed" not in exc.said:
                    raise

    def local_path(self, path: str) -> Path:
        """Return where a path of a reply lies on this machine; see `sf_root`."""
        return local_path(path, SF if self.sf_root is None else self.sf_root)


def pedestal_time(rate_multiplicator: int, pedestalmode: bool = False) -> float:
    """Return the least time of a pedestal, s: the server announces the same, except for pedestalmode."""
    r = check_rate_multiplicator(rate_multiplicator)
    manual = PEDESTAL_FRAMES / PULSE_RATE * r + 10
    return max(manual, 200.0 * r) if pedestalmode else manual


class BrokerClient(MainCalls, SlowCalls):
    """Speak to both services of the sf-daq broker. Contacts nothing until the first call.

    Requests are checked before they are sent, numbers come back as ints in both dialects, and a call is
    repeated only where the wire reference sf-daq-broker, section 15, allows it: reads, and writes of the same
    content. Safe to use from several threads; the server does one request at a time for all beamlines, so
    poll at most once a second.

    Parameters
    ----------
    url : str
        E.g. ``http://sf-daq:10002``.
    slow_url : str, optional
        Default is the next port of the same host.
    dialect : {"current", "documented", "auto"}
        What the server speaks; "auto" asks with the first call, and only with what is safe in both.
    timeout, slow_timeout : float
        Limits of one call, s.
    sf_root : str or Path, optional
        Where the DAQ's ``/sf`` is mounted here, if it is. With it, a retrieval whose reply was lost is
        looked up instead of reported as unknown, and `local_path` maps paths of replies.
    recover_timeout : float
        How long to look, s.

    Raises
    ------
    RequestError
        An argument is wrong; nothing was sent.
    BrokerRefused
        The broker said no; see its `exception`, `said` and `nothing_done`.
    ServiceUnreachable
        The request never reached the broker.
    ServiceTimeout
        No answer to a call that may be repeated.
    UnknownOutcome
        No answer to a call that must not be repeated: a timed-out request is still carried out.
    WireError
        An answer that makes no sense.

    Examples
    --------
    >>> client = BrokerClient("http://sf-daq:10002")
    >>> client.url, client.slow_url
    ('http://sf-daq:10002', 'http://sf-daq:10003')
    """

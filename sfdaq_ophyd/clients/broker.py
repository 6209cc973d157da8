"""Client of the sf-daq broker: one method per call of both services, made of the table of operations."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Concatenate

from ..errors import BrokerRefused, RequestError, RunNumberMismatch, ServiceUnreachable, UnknownOutcome
from ..wire import broker_operations as ops
from ..wire.broker import PEDESTAL_FRAMES, SF, local_path
from ..wire.broker_operations import Operation, Parameters, Reply
from ..wire.broker_parameters import check_hardware_settings, check_pgroup
from ..wire.broker_reply import CopiedFiles, Retrieval, copied_files
from ..wire.broker_request import REQUEST_ID, RetrieveRequest
from ..wire.pulse_id import PULSE_RATE, check_rate_multiplicator
from .broker_transport import BrokerTransport, find_retrieval

PEDESTALS_APART = 1.05
"""s from the reply to one pedestal to the next request: the server names their files by the second."""


class _Turns:
    """The pedestals of one pgroup at one broker, for which this process asks one after the other."""

    def __init__(self):
        self.lock, self.replied = threading.Lock(), -math.inf  # when there was a reply, or none in time


_pedestals: dict[tuple[str, str], _Turns] = {}
"""By address and pgroup."""


class BrokerTrap(UserWarning):
    """A request is legal and will be accepted, and some of its data will not come."""


def pedestal_time(rate_multiplicator: int, pedestalmode: bool = False) -> float:
    """Return the least time of a pedestal: the server announces the same, except for pedestalmode.

    Parameters
    ----------
    rate_multiplicator : int
        100 Hz divided by the detector's rate: 1, 2, 4, 8, 10, 20, 40, 50 or 100.
    pedestalmode : bool
        The detector switches its gains itself, which takes 200 s at 100 Hz.

    Returns
    -------
    float
        s, at least.

    Raises
    ------
    RequestError
        The broker does not know this rate.

    Notes
    -----
    See wire reference sf-daq-broker, section 8.
    """
    r = check_rate_multiplicator(rate_multiplicator)
    manual = PEDESTAL_FRAMES / PULSE_RATE * r + 10
    return max(manual, 200.0 * r) if pedestalmode else manual


def _method(
    operation: Operation[Parameters, Reply],
) -> Callable[Concatenate[BrokerTransport, Parameters], Reply]:
    """Return the method that makes a call, as the table has it."""

    @functools.wraps(operation.request)
    def method(self: BrokerTransport, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Reply:
        return self.call(operation, operation.request(*args, **kwargs))

    myself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own, read = inspect.signature(operation.request), inspect.signature(operation.read)
    vars(method)["__signature__"] = inspect.Signature(
        [myself, *own.parameters.values()], return_annotation=read.return_annotation
    )
    return method


class BrokerClient(BrokerTransport):
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

    get_allowed_detectors = _method(ops.get_allowed_detectors)
    get_running_detectors = _method(ops.get_running_detectors)
    power_on_detector = _method(ops.power_on_detector)
    advance_run_number = _method(ops.advance_run_number)
    get_current_run_number = _method(ops.get_current_run_number)
    get_pvlist = _method(ops.get_pvlist)
    set_pvlist = _method(ops.set_pvlist)
    get_detector_settings = _method(ops.get_detector_settings)
    get_detector_status = _method(ops.get_detector_status)
    get_detector_temperatures = _method(ops.get_detector_temperatures)
    get_detector_pings = _method(ops.get_detector_pings)
    get_jfctrl_monitor = _method(ops.get_jfctrl_monitor)
    get_jfstats = _method(ops.get_jfstats)
    power_on_modules = _method(ops.power_on_modules)
    power_off_modules = _method(ops.power_off_modules)
    get_dap_settings = _method(ops.get_dap_settings)
    set_dap_settings = _method(ops.set_dap_settings)
    upload_custom_dap_script = _method(ops.upload_custom_dap_script)

    def retrieve_from_buffers(self, request: RetrieveRequest) -> Retrieval:
        """Ask for the data of past pulses: one acquisition of a run.

        "ok" means queued: the files come 0 to 60 s later, or never. Each request gets a
        ``client_request_id`` of its own. If the reply is lost and the client knows `sf_root`, the id is
        looked up in the run's ``meta/`` and the reply rebuilt from it.

        Parameters
        ----------
        request : RetrieveRequest
            Checked already when it was made.

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
            answer = self.call(ops.retrieve_from_buffers, request.to_wire())
        except UnknownOutcome:
            where = request.pgroup, str(request.extra[REQUEST_ID]), request.run_number
            root, limit = self.sf_root, self.recover_timeout
            found = None if root is None else find_retrieval(root, *where, timeout=limit)
            if found is None:
                raise
            answer = found
        if request.run_number is not None and answer.run_number != request.run_number:
            raise RunNumberMismatch(asked=request.run_number, got=answer.run_number, reply=answer)
        return answer

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
        today's writer fails without. Never repeated. Two of one second would share their files: a second one
        of this process waits until that second is over.

        Parameters
        ----------
        pgroup : str
            E.g. ``"p12345"``; the pedestal is written for it.
        detectors : sequence of str
            At least one, e.g. ``["JF01T03V01"]``.
        rate_multiplicator : int
            100 Hz divided by the detectors' rate.
        pedestalmode : bool
            The detector switches gains itself: 200 s times `rate_multiplicator`.
        extra : mapping, optional
            Fields stored in ``<stamp>.json``, by which one's own pedestal is found.

        Returns
        -------
        float
            The server's announcement (a promise, not a fact), or 200 s per `rate_multiplicator` if longer.

        Raises
        ------
        RequestError
            An argument is wrong, or `extra` has a key that the broker uses itself; nothing was sent.
        BrokerRefused
            The broker did not take the request, e.g. because the pgroup is closed.
        UnknownOutcome
            The reply was lost: the pedestal may run or be queued.

        Notes
        -----
        See wire reference sf-daq-broker, section 8.
        """
        body = ops.take_pedestal.request(
            pgroup, detectors, rate_multiplicator=rate_multiplicator, pedestalmode=pedestalmode, extra=extra
        )
        turns = _pedestals.setdefault((self.url, pgroup), _Turns())
        with turns.lock:
            time.sleep(max(0.0, turns.replied + PEDESTALS_APART - time.monotonic()))
            try:
                self.call(ops.take_pedestal, body)
            finally:
                turns.replied = time.monotonic()
        return pedestal_time(rate_multiplicator, pedestalmode)

    def close_pgroup_writing(self, pgroup: str, *, confirm: str) -> None:
        """Close a pgroup for ever: no more runs, pedestals or copies; archiving starts.

        Parameters
        ----------
        pgroup : str
            E.g. ``"p12345"``.
        confirm : str
            The pgroup once more.

        Raises
        ------
        RequestError
            `confirm` is another pgroup, or `pgroup` is none; nothing was sent.
        BrokerRefused
            The pgroup has no folder at this beamline, or was closed before.
        UnknownOutcome
            The reply was lost, and that of asking once more too, or nobody could be asked. Closing again is
            harmless.

        Notes
        -----
        See wire reference sf-daq-broker, section 3.10.
        """
        if confirm != check_pgroup(pgroup):
            raise RequestError("confirm", confirm, f"{pgroup!r} once more: closing cannot be undone")
        body = ops.close_pgroup_writing.request(pgroup)
        try:
            self.call(ops.close_pgroup_writing, body)
        except UnknownOutcome as lost:
            try:
                self.call(ops.close_pgroup_writing, body)
            except ServiceUnreachable as exc:  # only the second one was not sent
                raise lost from exc
            except BrokerRefused as exc:
                if "already closed" not in exc.said:
                    raise

    def set_detector_settings(
        self, detector_name: str, parameters: Mapping[str, Any]
    ) -> dict[str, tuple[Any, Any]] | None:
        """Change hardware settings; stops the trigger of the whole beamline for 8 to 9 s, also for no change.

        Parameters
        ----------
        detector_name : str
        parameters : mapping
            Any of ``exptime``, ``delay`` (s), ``detector_mode``, ``gain_mode``; all checked before. The
            documented dialect knows one gain mode for all modules only, and no delay of 0.

        Returns
        -------
        dict of str to (old, new), or None
            What changed; None in the documented dialect, which does not tell.

        Raises
        ------
        BrokerRefused
            If `nothing_done` is False, earlier values stay changed and the trigger is left stopped.
        UnknownOutcome
            Read back, check the trigger PV, then repeat.
        """
        body = ops.set_detector_settings.request(detector_name, parameters) or {}
        if self.dialect == "documented":
            body |= check_hardware_settings(
                detector_name, body["parameters"], documented=True
            )  # the 2023 server reads them here, the document shows them there
        return self.call(ops.set_detector_settings, body)

    def copy_user_files(self, pgroup: str, run_number: int, files: Iterable[str]) -> CopiedFiles:
        """Copy files into ``aux/`` of a run; what is there under the same name is overwritten.

        Parameters
        ----------
        pgroup : str
        run_number : int
            A run that has data already.
        files : iterable of str
            Absolute paths readable by the server, of the pgroup's group.

        Returns
        -------
        CopiedFiles
            Look at `failed`: a file that could not be copied does not stop the others and raises nothing.
        """
        body = ops.copy_user_files.request(pgroup, run_number, files) or {}
        try:
            result = self.call(ops.copy_user_files, body)
        except BrokerRefused as exc:
            if "error_files" not in exc.reply:
                raise
            result = copied_files(exc.reply, self.dialect)
        if self.dialect == "documented":
            names = {PurePosixPath(file).name: file for file in body["files"]}
            copied = {names.get(name, path): path for name, path in result.copied.items()}
            return CopiedFiles(copied, result.failed)
        return result

    def local_path(self, path: str) -> Path:
        """Return where a path of a reply lies on this machine.

        Parameters
        ----------
        path : str
            Absolute and below ``/sf``, as the broker writes it.

        Returns
        -------
        Path
            The same file below the client's `sf_root`, which is ``/sf`` where it was not given. It need not
            exist.

        Raises
        ------
        RequestError
            `path` is not below ``/sf``, or climbs out of it.
        """
        return local_path(path, SF if self.sf_root is None else self.sf_root)

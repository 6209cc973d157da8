"""Calls of a broker as messages: one, power-on, settings, recorded PVs, user files, and a pedestal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, plan, short_uid

from ..clients import pedestal_time
from ..devices import SfDaqBroker
from ..devices.broker import CALL_TIMEOUT, Cancel, Job
from ..errors import RequestError
from ..wire.broker_parameters import check_dap_settings, check_hardware_settings, check_names, check_texts
from ..wire.detector_name import DetectorName

MOST_TRIES = 300
"""To set a shutter that an interrupted plan left on its way, one in 0.1 s."""


@plan
def call_broker(
    broker: SfDaqBroker,
    call: Callable[..., Any],
    *,
    timeout: float = CALL_TIMEOUT,
    waits: bool = False,
    **arguments: Any,
) -> MsgGenerator[Any]:
    """Make one call in a thread of the broker's, and wait for its end; a pause does not repeat it.

    If the plan is ended meanwhile, a call that only waits is given up; what was sent is not taken back.

    Parameters
    ----------
    broker : SfDaqBroker
    call : callable
        Of ``broker.runner``, ``.hardware``, ``.client``, or of the broker itself.
    timeout : float
        s until the call has failed, whatever happens to it.
    waits : bool
        The call takes long, and is given the `JobStatus` to wait with.
    **arguments
        Of the call.

    Yields
    ------
    Msg
        'set' of ``broker.service`` to a `Job`, and 'wait'.

    Returns
    -------
    object
        What the call returned; None in a dry run.
    """
    job = Job(call, arguments, timeout, waits)
    group = short_uid(job.name)

    def make_it() -> MsgGenerator[Any]:
        status = yield Msg("set", broker.service, job, group=group)
        yield Msg("wait", None, group=group)
        return getattr(status, "result", None)

    def give_it_up(_: Exception) -> MsgGenerator[None]:
        yield Msg("set", broker.service, Cancel((job.id,)))

    return (yield from bpp.contingency_wrapper(make_it(), except_plan=give_it_up))


def _step(broker: SfDaqBroker, call: Callable[..., Any], **options: Any) -> MsgGenerator[Any]:
    """Call a broker after a checkpoint: see `call_broker`."""
    yield from bps.checkpoint()
    return (yield from call_broker(broker, call, **options))


@plan
def preflight(broker: SfDaqBroker) -> MsgGenerator[str | None]:
    """Check that everything a run needs is there, and return the table of checks; takes no run number.

    The plan fails with PreflightFailed if one failed.

    Parameters
    ----------
    broker : SfDaqBroker
    """
    return (yield from _step(broker, broker.pass_preflight))


@plan
def copy_user_files(
    broker: SfDaqBroker, run_number: int, files: Sequence[str]
) -> MsgGenerator[dict[str, str] | None]:
    """Copy files into ``aux/`` of a run, and return source to destination.

    Parameters
    ----------
    broker : SfDaqBroker
    run_number : int
        A run with data.
    files : sequence of str
        Absolute paths that the server can read; the plan fails if one could not be copied.
    """
    copy = broker.hardware.copy_user_files
    return (yield from _step(broker, copy, run_number=run_number, files=list(files)))


@plan
def close_pgroup(broker: SfDaqBroker, confirm: str) -> MsgGenerator[None]:
    """Close the pgroup of `broker` for ever: no more runs, pedestals or copies; archiving starts.

    Parameters
    ----------
    broker : SfDaqBroker
    confirm : str
        The pgroup once more.
    """
    if confirm != broker.pgroup.get():
        raise RequestError("confirm", confirm, f"{broker.pgroup.get()!r}: closing cannot be undone")
    yield from call_broker(broker, broker.client.close_pgroup_writing, pgroup=confirm, confirm=confirm)


@plan
def power_on(
    broker: SfDaqBroker,
    detector: str,
    *,
    start_timeout: float = 300.0,
    data_timeout: float = 90.0,
) -> MsgGenerator[None]:
    """Restart a detector: modules answer, power on, running, writing into the buffer.

    Stops the trigger of the whole beamline for a while. Each step fails with what is wrong and what a person
    does.

    Parameters
    ----------
    broker : SfDaqBroker
    detector : str
        E.g. ``JF01T03V01``.
    start_timeout : float
        s until the restart is over: all modules are in state running, and the trigger runs again if its PV is
        known. A detector that ran before has to be seen to stop.
    data_timeout : float
        s from there until all modules write. The server says so for 30 s after a module has stopped, so that
        long is waited from the begin of the restart on, if the detector wrote before.
    """
    hardware = broker.hardware
    yield from _step(broker, hardware.check_reachable, detector=detector)
    restart = yield from _step(broker, hardware.power_on_detector, detector=detector)
    started: dict[str, Any] = {"limit": start_timeout, "restart": restart}
    for wait, given in (
        (hardware.wait_until_running, started),
        (hardware.wait_until_writing, {"limit": data_timeout, "restart": restart}),
    ):
        timeout = given["limit"] + 60
        yield from _step(broker, wait, timeout=timeout, waits=True, detector=detector, **given)


@plan
def set_detector_settings(
    broker: SfDaqBroker, detector: str, parameters: dict[str, Any]
) -> MsgGenerator[dict[str, Any] | None]:
    """Change hardware settings of a detector; stops the trigger of the whole beamline for 8 s.

    Parameters
    ----------
    broker : SfDaqBroker
    detector : str
    parameters : dict
        Any of ``exptime`` (s), ``delay`` (s), ``detector_mode``, ``gain_mode``; checked before anything is
        sent, because a bad value leaves the beamline without trigger.

    Returns
    -------
    dict or None
        ``{name: [old, new]}`` of what changed.
    """
    checked = check_hardware_settings(detector, parameters)
    change = broker.hardware.set_detector_settings
    return (yield from _step(broker, change, detector=detector, parameters=checked))


@plan
def set_dap_settings(
    broker: SfDaqBroker, detector: str, parameters: dict[str, Any]
) -> MsgGenerator[dict[str, Any] | None]:
    """Change settings of a detector's online analysis, and return ``{name: [old, new]}`` of what changed.

    Parameters
    ----------
    broker : SfDaqBroker
    detector : str
    parameters : dict
        Checked before anything is sent.
    """
    checked = check_dap_settings(detector, parameters)
    change = broker.client.set_dap_settings
    changed = yield from _step(broker, change, detector_name=detector, parameters=checked)
    return changed and {name: list(pair) for name, pair in changed.items()}


@plan
def update_pv_list(
    broker: SfDaqBroker, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> MsgGenerator[dict[str, list[str]] | None]:
    """Add PVs to those the DAQ records, and take others out; nothing is written if nothing changes.

    A change restarts the recording of all PVs: not during a scan. Returns what was ``added`` and ``removed``.

    Parameters
    ----------
    broker : SfDaqBroker
    add, remove : sequence of str
        What is recorded by mistake, as a camera is, can be taken out too.
    """
    add, remove = check_names(add, "add"), check_texts(remove, "remove")
    return (yield from _step(broker, broker.hardware.update_pv_list, add=add, remove=remove))


@plan
def take_pedestal(
    broker: SfDaqBroker,
    detectors: Sequence[str] | None = None,
    *,
    shutter: Any = None,
    closed: Any = "Closed",
    pedestalmode: bool = False,
    timeout: float | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Take a pedestal with the beam off, and wait until it is evaluated and in use.

    The shutter is put back as it was, however the plan ends. Later runs of these detectors carry the uid of
    this run, the file and its age in their start document.

    Parameters
    ----------
    broker : SfDaqBroker
    detectors : sequence of str, optional
        Default are those of `broker`.
    shutter : device, optional
        Set to `closed` first; None if the beam is off already.
    closed : object
        The value that takes the beam off.
    pedestalmode : bool
        The detector switches gains itself; longer.
    timeout : float, optional
        s; default is three times what the server announces, two minutes, and 5 s per module.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    str
        Uid of the run. Its event holds the file of each detector.
    """
    names = list(broker.detectors.get() if detectors is None else detectors)
    rate = int(broker.rate_multiplicator.get())
    n_modules = sum(DetectorName.parse(name).n_modules for name in names)
    limit = 3 * pedestal_time(rate, pedestalmode) + 120 + 5 * n_modules if timeout is None else timeout
    _md = {
        "plan_name": "take_pedestal",
        "detectors": [broker.name],
        "pedestal_of": names,
        "pedestalmode": pedestalmode,
        "sf_daq": {"pgroup": broker.pgroup.get(), "beamline": broker.beamline},
        **(md or {}),
    }

    def dark() -> MsgGenerator[str]:
        uid = yield from bps.open_run(_md)
        uid = uid or ""
        of = {"detectors": names, "run_uid": uid}
        begin, wait = broker.hardware.begin_pedestal, broker.hardware.wait_for_pedestal
        pedestal = yield from _step(broker, begin, pedestalmode=pedestalmode, **of)
        waiting = {"timeout": limit, "waits": True, "limit": limit}
        result = yield from _step(broker, wait, pedestal=pedestal, **waiting, **of)
        if result is not None:
            flyer = broker.hardware.pedestal_row(result)
            yield Msg("declare_stream", None, flyer, name="primary", collect=True)
            yield Msg("collect", flyer, name="primary")
        yield from bps.close_run()
        return uid

    def close_on_error() -> MsgGenerator[str]:
        return (yield from bpp.contingency_wrapper(dark(), except_plan=_close_failed))

    if shutter is None:
        return (yield from close_on_error())
    before = yield from bps.rd(shutter)

    def with_shutter() -> MsgGenerator[str]:
        yield from _move(shutter, closed)
        return (yield from close_on_error())

    return (yield from bpp.finalize_wrapper(with_shutter(), _move(shutter, before)))


def _move(shutter: Any, value: Any) -> MsgGenerator[None]:
    """Set `shutter`, also where it is still on its way: a signal then takes no other value for a while."""
    for n_left in reversed(range(MOST_TRIES)):
        try:
            return (yield from bps.mv(shutter, value))
        except RuntimeError:  # of ophyd: another set() is in progress
            if not n_left:
                raise
        yield from bps.sleep(0.1)


def _close_failed(exc: Exception) -> MsgGenerator[None]:
    status = getattr(exc, "exit_status", "fail")
    yield from bps.close_run(exit_status=status, reason=str(exc))

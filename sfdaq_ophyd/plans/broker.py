"""One service call of a broker, as messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, plan, short_uid

from ..devices import SfDaqBroker
from ..devices.broker import CALL_TIMEOUT, Cancel, Job
from ..errors import RequestError
from ..wire.broker_parameters import check_names
from ..wire.broker_settings import check_dap_settings, check_hardware_settings


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
        Of ``broker.runner``, ``.hardware``, ``.pedestals``, ``.client``, or of the broker itself.
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


@plan
def preflight(broker: SfDaqBroker) -> MsgGenerator[str | None]:
    """Check that everything a run needs is there; takes no run number.

    Parameters
    ----------
    broker : SfDaqBroker

    Returns
    -------
    str or None
        The table of checks; the plan fails with PreflightFailed if one failed.
    """
    yield from bps.checkpoint()
    return (yield from call_broker(broker, broker.pass_preflight))


@plan
def copy_user_files(
    broker: SfDaqBroker, run_number: int, files: Sequence[str]
) -> MsgGenerator[dict[str, str] | None]:
    """Copy files into ``aux/`` of a run.

    Parameters
    ----------
    broker : SfDaqBroker
    run_number : int
        A run with data.
    files : sequence of str
        Absolute paths that the server can read.

    Returns
    -------
    dict or None
        Source to destination; the plan fails if one could not be copied.
    """
    yield from bps.checkpoint()
    copy = broker.hardware.copy_user_files
    return (yield from call_broker(broker, copy, run_number=run_number, files=list(files)))


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
        s until all modules are in state running.
    data_timeout : float
        s from there until all modules write; the buffer's own look-back is 30 s.
    """
    yield from bps.checkpoint()
    yield from call_broker(broker, broker.hardware.check_reachable, detector=detector)
    yield from bps.checkpoint()
    yield from call_broker(broker, broker.client.power_on_detector, detector_name=detector)
    yield from bps.checkpoint()
    yield from call_broker(
        broker,
        broker.hardware.wait_until_running,
        timeout=start_timeout + 60,
        waits=True,
        detector=detector,
        limit=start_timeout,
    )
    yield from bps.checkpoint()
    yield from call_broker(
        broker,
        broker.hardware.wait_until_writing,
        timeout=data_timeout + 60,
        waits=True,
        detector=detector,
        limit=data_timeout,
    )


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
    yield from bps.checkpoint()
    change = broker.hardware.set_detector_settings
    return (yield from call_broker(broker, change, detector=detector, parameters=checked))


@plan
def set_dap_settings(
    broker: SfDaqBroker, detector: str, parameters: dict[str, Any]
) -> MsgGenerator[dict[str, Any] | None]:
    """Change settings of a detector's online analysis.

    Parameters
    ----------
    broker : SfDaqBroker
    detector : str
    parameters : dict
        Checked before anything is sent.

    Returns
    -------
    dict or None
        ``{name: [old, new]}`` of what changed.
    """
    checked = check_dap_settings(detector, parameters)
    yield from bps.checkpoint()
    change = broker.client.set_dap_settings
    changed = yield from call_broker(broker, change, detector_name=detector, parameters=checked)
    return changed and {name: list(pair) for name, pair in changed.items()}


@plan
def update_pv_list(
    broker: SfDaqBroker, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> MsgGenerator[dict[str, list[str]] | None]:
    """Add PVs to those the DAQ records, and take others out; nothing is written if nothing changes.

    A change restarts the recording of all PVs: not during a scan.

    Parameters
    ----------
    broker : SfDaqBroker
    add, remove : sequence of str

    Returns
    -------
    dict or None
        What was added and removed.
    """
    add, remove = check_names(add, "add"), check_names(remove, "remove")
    yield from bps.checkpoint()
    return (yield from call_broker(broker, broker.hardware.update_pv_list, add=add, remove=remove))

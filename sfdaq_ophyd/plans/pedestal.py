"""Pedestals, each a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, plan

from ..clients import pedestal_time
from ..devices import SfDaqBroker
from ..wire.detector_name import DetectorName
from .broker import call_broker

MOST_TRIES = 300
"""To set a shutter that an interrupted plan left on its way, one in 0.1 s."""


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
        yield from bps.checkpoint()
        pedestal = yield from call_broker(
            broker,
            broker.pedestals.begin_pedestal,
            detectors=names,
            pedestalmode=pedestalmode,
            run_uid=uid,
        )
        yield from bps.checkpoint()
        result = yield from call_broker(
            broker,
            broker.pedestals.wait_for_pedestal,
            timeout=limit,
            waits=True,
            pedestal=pedestal,
            detectors=names,
            limit=limit,
            run_uid=uid,
        )
        flyer = yield from call_broker(broker, broker.pedestals.pedestal_rows, result=result)
        if flyer is not None:
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

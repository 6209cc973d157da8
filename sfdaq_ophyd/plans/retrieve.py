"""Data of past pulses: a range, a list, or an old run once more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import MsgGenerator, plan

from ..devices import FlyGroup, SfDaqBroker
from ..errors import RequestError
from ..wire.pulse_id import MAX_PULSE_DISTANCE, PulseRange
from .broker import call_broker
from .fly import collect_while_completing
from .run_number import Policy, run_number_wrapper

MAX_SELECTED = 6000
"""Pulse ids in one request; about 7800 reach the server's limit."""

SLEEP = 1.0
"""s that `sf_record` sleeps at once: so much longer at the most it records if it is paused."""


@plan
def retrieve_from_buffers(
    broker: SfDaqBroker,
    start_pulse_id: int | None = None,
    stop_pulse_id: int | None = None,
    *,
    pulse_ids: Sequence[int] | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Get past pulses out of the buffers, as a run of its own.

    Parameters
    ----------
    broker : SfDaqBroker
        Its signals say which detectors and channels.
    start_pulse_id, stop_pulse_id : int, optional
        Both ends included; a range longer than one request can carry becomes several acquisitions.
    pulse_ids : sequence of int, optional
        In place of a range: these pulses only.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    str
        Uid of the run.
    """
    parts = list(_parts(start_pulse_id, stop_pulse_id, pulse_ids, broker.rate_multiplicator.get()))
    _md = {
        "plan_name": "retrieve_from_buffers",
        "start_pulse_id": parts[0]["start_pulse_id"],
        "stop_pulse_id": parts[-1]["stop_pulse_id"],
        "num_points": len(parts),
        "detectors": [broker.name],
        **(md or {}),
    }

    @bpp.run_decorator(md=_md)
    def inner() -> MsgGenerator[None]:
        for part in parts:
            yield from bps.checkpoint()
            yield from call_broker(broker, broker.retrieve, timeout=_limit(broker), waits=True, **part)
            yield from _event(broker)

    yield from call_broker(broker, broker.check_settings)  # before a run number is used up
    return (yield from run_number_wrapper(inner(), broker))


@plan
def re_retrieve(
    broker: SfDaqBroker,
    run_number: int,
    acquisition_number: int | None = None,
    *,
    same_run: bool = False,
    changes: dict[str, Any] | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Ask once more for a run, or one acquisition of it, from what ``meta/acqNNNN.json`` says.

    Parameters
    ----------
    broker : SfDaqBroker
        Needs the DAQ's ``/sf``.
    run_number : int
        Of the run to repeat.
    acquisition_number : int, optional
        Only this one.
    same_run : bool
        The data become further acquisitions of that run; else a new run number is taken.
    changes : dict, optional
        Fields of the request that shall be different, as on the wire, e.g. ``{"detectors": {...}}``; not
        ``run_number``, which `same_run` decides.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    str
        Uid of the run.
    """
    policy: Policy = "first_acquisition" if same_run else "open_run"
    _md = {
        "plan_name": "re_retrieve",
        "rerun_of": run_number,
        "detectors": [broker.name],
        "same_run": same_run,
        **(md or {}),
    }

    def inner() -> MsgGenerator[str]:
        saved = yield from call_broker(
            broker,
            broker.runner.saved_requests,
            run_number=run_number,
            acquisition_number=acquisition_number,
            changes=changes,
        )

        @bpp.run_decorator(md=_md)
        def run() -> MsgGenerator[None]:
            for path in saved or ():
                yield from bps.checkpoint()
                limit, again = _limit(broker), broker.retrieve_again
                yield from call_broker(broker, again, timeout=limit, waits=True, path=path, changes=changes)
                yield from _event(broker)

        return (yield from run())

    return (yield from run_number_wrapper(inner(), broker, policy))


def _event(broker: SfDaqBroker) -> MsgGenerator[None]:
    yield from bps.create()
    yield from bps.read(broker)
    yield from bps.save()


def _limit(broker: SfDaqBroker) -> float:
    return 60.0 + 10 * float(broker.timeout.get())


def _parts(start: int | None, stop: int | None, pulse_ids: Sequence[int] | None, rate: int):
    if pulse_ids is None:
        if start is None or stop is None:
            raise RequestError("start_pulse_id, stop_pulse_id", (start, stop), "both, or pulse_ids")
        for part in PulseRange(start, stop).split(rate_multiplicator=rate):
            yield {"start_pulse_id": part.first, "stop_pulse_id": part.last}
        return
    ids = sorted(set(pulse_ids))
    if not ids or start is not None or stop is not None:
        raise RequestError("pulse_ids", ids[:3], "at least one, and no start and stop beside it")
    while ids:
        n = next((k for k, one in enumerate(ids) if one - ids[0] > MAX_PULSE_DISTANCE), len(ids))
        chosen, ids = ids[: min(n, MAX_SELECTED)], ids[min(n, MAX_SELECTED) :]
        yield {"start_pulse_id": chosen[0], "stop_pulse_id": chosen[-1], "pulse_ids": chosen}


@plan
def sf_record(broker: SfDaqBroker, duration: float, *, md: dict[str, Any] | None = None) -> MsgGenerator[str]:
    """Record everything for `duration`, under one run number; a pause does not stop the recording.

    The time of a pause counts; if `duration` is over before the plan is resumed, it ends then.

    Parameters
    ----------
    broker : SfDaqBroker
    duration : float
        s; more than 10 minutes become several acquisitions.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    str
        Uid of the run.
    """
    _md = {"plan_name": "sf_record", "duration": duration, "detectors": [broker.name], **(md or {})}

    flyer = FlyGroup([broker])

    @bpp.stage_decorator([broker])
    @bpp.run_decorator(md=_md)
    def inner() -> MsgGenerator[None]:
        yield from bps.declare_stream(flyer, name="primary", collect=True)
        yield from bps.kickoff(flyer, wait=True)
        end, slept = time.monotonic() + duration, 0.0
        while slept < duration and (left := end - time.monotonic()) > 0:  # in a dry run no time passes
            yield from bps.checkpoint()  # a pause replays what follows, however long it was
            yield from bps.sleep(step := min(left, SLEEP))
            slept += step
        yield from collect_while_completing(flyer, "primary")

    return (yield from run_number_wrapper(inner(), broker))

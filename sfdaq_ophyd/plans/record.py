"""Record for a while: a fly scan of the broker alone."""

from __future__ import annotations

from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import MsgGenerator, plan

from ..devices import FlyGroup, SfDaqBroker
from .fly import collect_while_completing
from .run_number import run_number_wrapper


@plan
def sf_record(broker: SfDaqBroker, duration: float, *, md: dict[str, Any] | None = None) -> MsgGenerator[str]:
    """Record everything for `duration`, under one run number; a pause does not stop the recording.

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
        yield from bps.checkpoint()
        yield from bps.sleep(duration)
        yield from collect_while_completing(flyer, "primary")

    return (yield from run_number_wrapper(inner(), broker))

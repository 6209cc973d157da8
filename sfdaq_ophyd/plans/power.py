"""Switch a detector on, and know that it takes data."""

from __future__ import annotations

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator, plan

from ..devices import SfDaqBroker
from .ask import ask


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
    yield from ask(broker, "check_reachable", detector=detector)
    yield from bps.checkpoint()
    yield from ask(broker, "power_on_detector", detector=detector)
    yield from bps.checkpoint()
    limit = {"timeout": start_timeout + 60, "limit": start_timeout}
    yield from ask(broker, "wait_until_running", detector=detector, **limit)
    yield from bps.checkpoint()
    limit = {"timeout": data_timeout + 60, "limit": data_timeout}
    yield from ask(broker, "wait_until_writing", detector=detector, **limit)

"""One service call of a broker, as messages."""

from __future__ import annotations

from typing import Any

import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, plan, short_uid

from ..devices import SfDaqBroker
from ..devices.broker import Job


@plan
def ask(broker: SfDaqBroker, call: str, *, timeout: float = 120.0, **arguments: Any) -> MsgGenerator[Any]:
    """Make one call and wait for its end; a pause does not repeat it.

    If the plan is ended meanwhile, a call that only waits is given up; what was sent is not taken back.

    Parameters
    ----------
    broker : SfDaqBroker
    call : str
        One of ``broker.service.calls``.
    timeout : float
        s until the call has failed, whatever happens to it.
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
    job = Job(call, arguments, timeout)
    group = short_uid(call)

    def make_it() -> MsgGenerator[Any]:
        status = yield Msg("set", broker.service, job, group=group)
        yield Msg("wait", None, group=group)
        return getattr(status, "result", None)

    def give_it_up(_: Exception) -> MsgGenerator[None]:
        yield Msg("set", broker.service, Job("cancel", {"ids": [job.id]}))

    return (yield from bpp.contingency_wrapper(make_it(), except_plan=give_it_up))

"""What concerns a whole pgroup: checks before a run, user files, and its end."""

from __future__ import annotations

from collections.abc import Sequence

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator, plan

from ..devices import SfDaqBroker
from ..errors import RequestError
from .ask import ask


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
    return (yield from ask(broker, "preflight"))


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
    return (yield from ask(broker, "copy_user_files", run_number=run_number, files=list(files)))


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
    yield from ask(broker, "close_pgroup", confirm=confirm)

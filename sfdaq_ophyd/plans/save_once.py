"""A preprocessor: an event that was saved is not taken and saved a second time after a pause.

Bluesky rewinds to the last checkpoint. If a pause falls between 'save' and the next checkpoint, the point is
triggered and saved again, under the same `seq_num`: two rows in the catalog, both right, one of them too many.
"""

from __future__ import annotations

import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator


def save_once(plan: MsgGenerator) -> MsgGenerator:
    """Let a pause between 'create' and 'save' go on where it was, and make 'save' a checkpoint.

    Nothing between 'create' and 'save' waits for hardware, so nothing is lost. Install it once::

        RE.preprocessors.append(save_once)

    Parameters
    ----------
    plan : generator
        Any plan.

    Yields
    ------
    Msg
        Those of `plan`, and 'rewindable' around each event.
    """
    was_rewindable = True

    def begin(msg: Msg) -> MsgGenerator:
        nonlocal was_rewindable
        was_rewindable = yield Msg("rewindable", None, None)
        yield Msg("rewindable", None, False)
        return (yield msg)

    def end() -> MsgGenerator:
        yield Msg("rewindable", None, was_rewindable)

    def around_events(msg: Msg) -> tuple:
        if msg.command == "create":
            return begin(msg), None
        if msg.command in ("save", "drop"):
            return None, end()
        return None, None

    return (yield from bpp.plan_mutator(plan, around_events))

"""A preprocessor: an event that was saved is not taken and saved a second time after a pause.

Bluesky rewinds to the last checkpoint. If a pause falls between 'save' and the next checkpoint, the point is
triggered and saved again, under the same `seq_num`: two rows in the catalog, each right, one too many. After
the last point of a run it is worse: the run is closed by then, and the replay fails.
"""

from __future__ import annotations

import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, single_gen

from .same_pulses import forwarded


def save_once(plan: MsgGenerator) -> MsgGenerator:
    """Make every 'save' a checkpoint that no pause can come in front of.

    Install it once, ``RE.preprocessors.append(save_once)``; it changes nothing else.

    Parameters
    ----------
    plan : generator
    """

    def around(msg: Msg) -> MsgGenerator:
        if msg.command == "save":
            return (yield from bpp.rewindable_wrapper(single_gen(msg), False))
        return (yield msg)

    return (yield from forwarded(plan, around))

"""Preprocessors: devices that are triggered together take the same pulses; what was saved is saved once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, single_gen

from ..devices import NextWindow, PulseWindow


def same_pulses(plan: MsgGenerator) -> MsgGenerator[Any]:
    """Have all devices that a plan triggers in one group take their frames of the same pulses.

    Concerns devices that count pulses: `Jungfrau` with a `PulseId`, alone or inside a `StdDaqWriter`, and
    `SfDaqBroker` with all its detectors, cameras and channels. `run_number_wrapper` includes it. Without it,
    each device takes the pulses after its own trigger.

    Parameters
    ----------
    plan : generator
        Any plan; one that triggers no such device is passed on as it is.

    Yields
    ------
    Msg
        Those of `plan`; one more before each 'trigger' of such a device, and one after the last of a group.

    Returns
    -------
    object
        What `plan` returns.
    """
    return (yield from forwarded(plan, _Triggers().around))


class _Triggers:
    """The window of the group that is being triggered."""

    def __init__(self):
        self._window: PulseWindow | None = None
        self._group: Any = None
        self._told: Any = None  # the device that a plan inside this one has told its window

    def around(self, msg: Msg) -> MsgGenerator[Any]:
        """Yield `msg` and what belongs around it; return its response."""
        group = msg.kwargs.get("group")
        goes_on = msg.command == "trigger" and group == self._group
        if self._window is not None and not goes_on:
            window, self._window = self._window, None
            yield Msg("trigger", window, group=self._group)
        if msg.command == "set" and isinstance(msg.obj, NextWindow):
            self._told = msg.obj.parent
        elif msg.command == "trigger" and isinstance(getattr(msg.obj, "next_window", None), NextWindow):
            told, self._told = self._told, None
            if group is not None and told is not msg.obj:
                if self._window is None:
                    self._window, self._group = PulseWindow(), group
                yield Msg("set", msg.obj.next_window, self._window, group=group)
        return (yield msg)


def forwarded(
    plan: MsgGenerator, around: Callable[[Msg], Generator[Msg, Any, Any]]
) -> Generator[Msg, Any, Any]:
    """Pass a plan on, each message through `around`, which yields it and what belongs to it.

    Unlike ``bpp.plan_mutator`` it keeps no message gone by, which a long scan has 26 of per point.

    Parameters
    ----------
    plan : generator
        Any plan.
    around : callable
        Takes a message and is itself a plan. What it returns is the response to that message, and what it
        raises is thrown into `plan`.

    Returns
    -------
    object
        What `plan` returns.
    """
    plan = iter(plan) if not hasattr(plan, "send") else plan
    response, exception = None, None
    while True:
        try:
            msg = plan.throw(exception) if exception is not None else plan.send(response)
        except StopIteration as end:
            return end.value
        response, exception = None, None
        try:
            response = yield from around(msg)
        except GeneratorExit:
            plan.close()
            raise
        except Exception as exc:
            exception = exc


def save_once(plan: MsgGenerator) -> MsgGenerator:
    """Make every 'save' a checkpoint that no pause can come in front of.

    Bluesky rewinds to the last checkpoint. If a pause falls between 'save' and the next checkpoint, the point
    is triggered and saved again, under the same `seq_num`: two rows in the catalog, each right, one too many.
    After the last point of a run it is worse: the run is closed by then, and the replay fails.

    Install it once, ``RE.preprocessors.append(save_once)``; it changes nothing else.

    Parameters
    ----------
    plan : generator
        Any plan.

    Yields
    ------
    Msg
        Those of `plan`; around each 'save' those that switch rewinding off and on.

    Returns
    -------
    object
        What `plan` returns.
    """

    def around(msg: Msg) -> MsgGenerator:
        if msg.command == "save":
            return (yield from bpp.rewindable_wrapper(single_gen(msg), False))
        return (yield msg)

    return (yield from forwarded(plan, around))

"""The standard DAQ in plans: its configuration, one file of images, and a writer around other detectors."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky import Msg
from bluesky.utils import short_uid

MsgGenerator = Generator[Msg, Any, Any]


def configure_daq(writer, **changes: Any) -> MsgGenerator:
    """Change the DAQ's configuration and wait until it is back; a stub.

    Parameters
    ----------
    writer : StdDaqWriter
    **changes
        Keys of the configuration, e.g. ``bit_depth=32``; the others keep their values.

    Yields
    ------
    Msg
        Setting ``writer.daq_config``, and waiting for it.
    """
    yield from bps.abs_set(writer.daq_config, changes, wait=True)


def write_images(writer, n_images: int, *, stream: str = "primary") -> MsgGenerator:
    """Write one file of `n_images` images as one event; a stub, for use in an open run.

    Parameters
    ----------
    writer : StdDaqWriter
        Staged and unstaged here; its `frames_per_trigger` is put back.
    n_images : int
        Of the file.
    stream : str
        Event stream.

    Yields
    ------
    Msg
    """
    before = yield from bps.rd(writer.frames_per_trigger)

    def inner() -> MsgGenerator:
        yield from bps.mv(writer.frames_per_trigger, n_images)
        yield from bpp.stage_wrapper(bps.trigger_and_read([writer], name=stream), [writer])

    def put_back() -> MsgGenerator:
        yield from bps.mv(writer.frames_per_trigger, before)

    return (yield from bpp.finalize_wrapper(inner(), put_back))


def std_daq_wrapper(plan: MsgGenerator, writer) -> MsgGenerator:
    """Write every point of a plan with the standard DAQ as well; a preprocessor.

    The writer is open before the first detector of a point is triggered, and the point waits for its file.

    Parameters
    ----------
    plan : generator of Msg
        With steps that trigger, wait, create, read and save, as `bps.trigger_and_read` makes them.
    writer : StdDaqWriter
        Not a detector of the plan; staged around it. Its readings go into the same events.

    Yields
    ------
    Msg
    """
    triggered = False

    def open_first(msg: Msg):
        nonlocal triggered
        if msg.command == "trigger" and msg.obj is not writer and not triggered:
            triggered = True
            return _opened(msg, writer), None
        if msg.command == "save" and triggered:
            triggered = False
            return bpp.pchain(bps.read(writer), bpp.single_gen(msg)), None
        if msg.command == "drop":
            triggered = False
        return None, None

    return (yield from bpp.stage_wrapper(bpp.plan_mutator(plan, open_first), [writer]))


std_daq_decorator = bpp.make_decorator(std_daq_wrapper)
"""`std_daq_wrapper` as a decorator of plan functions."""


def _opened(msg: Msg, writer) -> MsgGenerator:
    yield from bps.trigger(writer, group=msg.kwargs.get("group"))
    group = short_uid("armed")
    yield from bps.abs_set(writer.armed, 1, group=group)
    yield from bps.wait(group)
    return (yield msg)

"""The standard DAQ in plans: its configuration, one file of images, and a writer around other detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import Msg, MsgGenerator, short_uid

from ..devices import FlyGroup, StdDaqWriter
from .fly import collect_once, collect_while_completing
from .same_pulses import forwarded


def configure_daq(writer: StdDaqWriter, **changes: Any) -> MsgGenerator:
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


def write_images(writer: StdDaqWriter, n_images: int, *, stream: str = "primary") -> MsgGenerator:
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


def std_daq_wrapper(plan: MsgGenerator, writer: StdDaqWriter) -> MsgGenerator:
    """Write every point of a plan with the standard DAQ as well; a preprocessor.

    In steps, the writer is open before the first detector of a point is triggered, and the point waits for
    its file; its readings go into the same events. In a fly scan it is open before the first detector is
    kicked off, takes as many points as that was prepared for (else its own `n_points`), and the run closes
    after its file; its points are in a stream of their own, named as the writer.

    Parameters
    ----------
    plan : generator of Msg
        With steps that trigger, wait, create, read and save, as `bps.trigger_and_read` makes them; or one
        that kicks off and collects.
    writer : StdDaqWriter
        Not a detector of the plan; staged around it.

    Yields
    ------
    Msg
    """
    return (yield from bpp.stage_wrapper(forwarded(plan, _Around(writer).around), [writer]))


std_daq_decorator = bpp.make_decorator(std_daq_wrapper)
"""`std_daq_wrapper` as a decorator of plan functions."""


class _Around:
    """What is put before and after the messages of others; one per plan."""

    def __init__(self, writer: StdDaqWriter):
        self._writer, self._flyer = writer, FlyGroup([writer])
        self._triggered = self._flying = False
        self._declared: set = set()
        self._n_points: int | None = None

    def around(self, msg: Msg) -> MsgGenerator:
        """Yield `msg` and what belongs around it; return its response."""
        if msg.obj in (self._writer, self._flyer):
            return (yield msg)
        match msg.command:
            case "trigger" if not self._triggered:
                self._triggered = True
                yield from self._open(msg)
            case "save" if self._triggered:
                self._triggered = False
                yield from bps.read(self._writer)
            case "drop":
                self._triggered = False
            case "prepare":
                (value, *_) = msg.args
                self._n_points = _n_points_of(value) or self._n_points
            case "kickoff" if not self._flying:
                self._flying = True
                yield from self._kick_off(msg)
            case "collect" if self._flying:
                response = yield msg
                yield from collect_once(self._flyer, self._writer.name)
                return response
            case "close_run":
                self._declared.discard(msg.run)
                if self._flying:
                    self._flying = False
                    whole = msg.kwargs.get("exit_status") in (None, "success")
                    rest = collect_while_completing if whole else collect_once
                    yield from rest(self._flyer, self._writer.name)
        return (yield msg)

    def _open(self, msg: Msg) -> MsgGenerator:
        """Have the writer armed before the first detector of a point is triggered."""
        yield from bps.trigger(self._writer, group=msg.kwargs.get("group"))
        group = short_uid("armed")
        yield from bps.abs_set(self._writer.armed, 1, group=group)
        yield from bps.wait(group)

    def _kick_off(self, msg: Msg) -> MsgGenerator:
        """Have the writer open before the first detector of a fly scan is kicked off."""
        writer = self._writer
        if msg.run not in self._declared:
            self._declared.add(msg.run)
            yield from bps.declare_stream(self._flyer, name=writer.name, collect=True)
        if self._n_points is not None:
            yield from bps.prepare(writer, self._n_points, wait=True)
        yield from bps.kickoff(self._flyer, wait=True)


def _n_points_of(prepared: object) -> int | None:
    """Return the points that a device is prepared for; None where the value says nothing of points."""
    n_points = prepared.get("n_points") if isinstance(prepared, Mapping) else prepared
    if isinstance(n_points, bool) or not isinstance(n_points, int | float | np.integer):
        return None
    return int(n_points) if n_points % 1 == 0 else None

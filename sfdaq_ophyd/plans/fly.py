"""Fly scans: stage, declare, kick off, and collect while completing; pausable at any message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import FailedStatus, Msg, MsgGenerator, plan, short_uid, single_gen

from ..devices import Detector, FlyGroup

DRY_RUN = 3
"""Rounds without an answer after which this is a dry run; a pause leaves single messages without one."""


@plan
def fly(
    detectors: Sequence[Detector],
    n: int,
    *,
    stream_name: str = "primary",
    period: float = 0.5,
    settings: dict | None = None,
    md: dict | None = None,
) -> MsgGenerator[str]:
    """Take `n` points with every detector in one acquisition each, without stopping in between.

    Rows are collected while the detectors run; of several detectors, row k holds point k of each. If the plan
    is paused, the detectors stop, keep what is whole, and go on with the rest after resume. If one fails,
    what all have so far is collected, then the run fails.

    Parameters
    ----------
    detectors : sequence of Detector
        Any mix of this package's detectors.
    n : int
        Points per detector, each of the detector's `frames_per_trigger` frames.
    stream_name : str
        Event stream of rows and images.
    period : float
        s between two collections.
    settings : dict, optional
        More for ``detector.prepare``, by the detector's name.
    md : dict, optional
        Metadata of the run.

    Yields
    ------
    Msg
        'prepare', 'kickoff', 'complete', 'wait', 'collect' and others.

    Returns
    -------
    str
        Uid of the run.

    Examples
    --------
    >>> RE(fly([eiger, jungfrau], 1000))  # doctest: +SKIP
    """
    detectors = list(detectors)
    flyer = FlyGroup(detectors)
    names = [detector.name for detector in detectors]
    _md = {
        "plan_name": "fly",
        "plan_args": {"detectors": list(map(repr, detectors)), "n": n, "stream_name": stream_name},
        "detectors": names,
        "num_points": n,
        "hints": {"dimensions": [(("time",), stream_name)]},
        **(md or {}),
    }

    @bpp.stage_decorator(detectors)
    @bpp.run_decorator(md=_md)
    def inner_fly() -> MsgGenerator[None]:
        for detector in detectors:
            request = {"n_points": n, **(settings or {}).get(detector.name, {})}
            yield from bps.prepare(detector, request, group="prepare")
        yield from bps.wait("prepare")
        yield from bps.declare_stream(flyer, name=stream_name, collect=True)  # with what was prepared
        yield from bps.checkpoint()
        yield from bps.kickoff(flyer, wait=True)
        yield from bpp.contingency_wrapper(
            collect_while_completing(flyer, stream_name, period),
            except_plan=lambda exc: collect_the_rest(flyer, stream_name),
        )

    return (yield from inner_fly())


@plan
def collect_while_completing(
    flyer: FlyGroup | Detector, stream_name: str = "primary", period: float = 0.5
) -> MsgGenerator[None]:
    """Collect from a flyer until it is complete, in a loop that a pause finds right at any message.

    Unlike ``bps.collect_while_completing``, nothing is collected a second time after a pause, and no wait is
    lost.

    Parameters
    ----------
    flyer : FlyGroup or Detector
        Kicked off, its stream declared. Of a detector alone, ids and numbers are columns of its file.
    stream_name : str
        The declared stream.
    period : float
        s between two collections.

    Yields
    ------
    Msg
        'checkpoint', 'complete', 'wait', 'collect', until the flyer is complete.
    """
    group = short_uid("complete")
    done, n_unanswered = False, 0
    while not done and n_unanswered < DRY_RUN:
        yield from bps.checkpoint()
        status = yield from bps.complete(flyer, group=group, wait=False)
        done = yield from bps.wait(group=group, timeout=period, error_on_timeout=False)
        n_unanswered = n_unanswered + 1 if status is None and done is None else 0
        yield from collect_once(flyer, stream_name)


def collect_once(flyer: FlyGroup | Detector, stream_name: str) -> MsgGenerator[Any]:
    """Collect, and let no pause replay it: it waits for nothing, and what it emitted is emitted."""
    return (yield from bpp.rewindable_wrapper(single_gen(Msg("collect", flyer, name=stream_name)), False))


def collect_the_rest(flyer: FlyGroup | Detector, stream_name: str) -> MsgGenerator[None]:
    """Collect file by file after a failure, which is thrown in once for every 'complete' asked for."""
    while True:
        try:
            if not (yield from collect_once(flyer, stream_name)):
                return
        except FailedStatus:
            continue

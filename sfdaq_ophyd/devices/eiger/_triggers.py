"""What a series is armed for, and the triggers that we send ourselves."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ...clients import SimplonClient
from ...wire.simplon import MANY_PER_TRIGGER, DetectorState, TriggerMode
from .._source import Request
from .._worker import Worker, ends_within
from ._control import EigerControl
from ._series import Mode


@dataclass(frozen=True)
class SeriesPlan:
    """What a series must be armed for, to serve one request.

    Attributes
    ----------
    n_images : int
        ``nimages``: frames of one trigger.
    n_triggers : int
        ``ntrigger``: triggers of the series.
    n_needed : int
        Triggers this request takes of them.
    """

    n_images: int
    n_triggers: int
    n_needed: int


def plan_series(mode: Mode, trigger_mode: str, n_triggers: int, request: Request) -> SeriesPlan:
    """Return what to arm for.

    Run by us, a step scan shares one series of `n_triggers` triggers, and a fly scan is one trigger of all
    its frames. With triggers from outside every request has a series of its own, so that no earlier edge
    counts.
    """
    many = trigger_mode in MANY_PER_TRIGGER
    if mode is Mode.INTERNAL:
        if request.flying:
            return SeriesPlan(request.n_frames, 1, 1) if many else _single(request.n_frames)
        needed = 1 if many else request.n_frames
        return SeriesPlan(request.n_frames if many else 1, max(needed, n_triggers), needed)
    if many:
        needed = request.n_frames // request.frames_per_trigger
        return SeriesPlan(request.frames_per_trigger, needed, needed)
    edges_more = 1 if trigger_mode == TriggerMode.EIES else 0  # n edges make n - 1 frames
    return _single(request.n_frames + edges_more)


def _single(n: int) -> SeriesPlan:
    return SeriesPlan(1, n, n)


SHORT = 0.1
"""s of exposure that may be waited for before the first frame is asked for."""


class SoftwareTriggers:
    """Send `n` triggers one after the other, each once, from the moment it is made.

    Parameters
    ----------
    duration : float
        s one of them takes.
    count_time : float or None
        Sent along; only in trigger mode ``inte``.
    margin : float
        s a reply may take beyond `duration`.
    stop : threading.Event
        Set by whoever gives up: no further trigger is sent, and errors do not matter any more.
    worker : Worker
        Whose thread sends long ones.
    """

    def __init__(
        self,
        client: SimplonClient,
        n: int,
        duration: float,
        count_time: float | None,
        margin: float,
        stop: threading.Event,
        worker: Worker,
    ):
        self._client, self._n, self._duration, self._count_time = client, n, duration, count_time
        self._margin, self._stop = margin, stop
        self._problem: Exception | None = None
        self._sent: threading.Event | None = None
        if n * duration <= SHORT:
            self._run()
        else:
            self._sent = worker.do(self._run)

    def _run(self) -> None:
        try:
            for _ in range(self._n):
                if self._stop.is_set():
                    return
                self._client.trigger(self._duration, self._count_time, self._margin)
        except Exception as exc:
            self._problem = exc

    @property
    def done(self) -> bool:
        """Whether all are exposed, or one failed."""
        return self._sent is None or self._sent.is_set()

    @property
    def problem(self) -> Exception | None:
        """What went wrong with a trigger, unless it was given up."""
        return None if self._stop.is_set() else self._problem

    def check(self, control: EigerControl) -> None:
        """Raise what went wrong with a trigger, or that the detector started anew."""
        if (problem := self.problem) is not None:
            if control.is_uninitialized():
                raise control.state_error(DetectorState.NA) from problem
            raise problem

    def join(self) -> None:
        """Wait for the reply to the trigger under way."""
        if self._sent is not None:
            ends_within(self._sent, self._n * (self._duration + 2 * self._margin))

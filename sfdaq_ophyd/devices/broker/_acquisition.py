"""One acquisition: choose the pulses, wait until they are over, ask for them. No ophyd in here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ...errors import Discarded
from ...limits import Limit
from ...wire.pulse_id import PulseRange
from .._workers import Workers


class Acquisition:
    """The next `n_frames` frames, in a thread of their own.

    Given up before the pulses are over, nothing is asked for; after that the request is out, and it ends
    with the reply.

    Parameters
    ----------
    name : str
        Of the device.
    workers : Workers
        Give it its thread.
    pulse_id : PulseId
        Has ``get()`` and ``wait_past(pulse_id)``.
    choose : callable
        Pulse id of this moment to the PulseRange to ask for.
    ask : callable
        Called with the PulseRange once it is over; returns what `on_end` is given.
    on_progress : callable
        Called with (current, target) in machine pulses.
    on_end : callable
        Called once, with (result, None) or (None, exception), in that thread.
    """

    def __init__(
        self,
        name: str,
        workers: Workers,
        pulse_id: Any,
        choose: Callable[[int], PulseRange],
        ask: Callable[[PulseRange], Any],
        *,
        on_progress: Callable[[float, float], None],
        on_end: Callable[[Any, Exception | None], None],
    ):
        self._name, self._pulse_id, self._choose, self._ask = name, pulse_id, choose, ask
        self._on_progress, self._on_end = on_progress, on_end
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._waiting = None
        self._running = True
        self._over = threading.Event()
        workers.do(self._run)

    @property
    def running(self) -> bool:
        """Whether pulses are still to come, or the reply is."""
        return self._running

    def give_up(self, timeout: float) -> bool:
        """Give up unless the request is out; then wait for its reply. Return whether it had been sent."""
        with self._lock:
            asked = self._waiting is self._asking
            self._given_up.set()
            if not asked and self._waiting is not None:
                self._waiting.succeed()
        limit = Limit(timeout)
        while not limit.wait(self._over):
            if limit.reached():
                break
        return asked

    _asking = object()

    def _run(self) -> None:
        try:
            result = self._acquire()
        except Exception as exc:
            self._end(None, exc)
        else:
            self._end(result, None)

    def _end(self, result: Any, exc: Exception | None) -> None:
        self._running = False  # before anyone who waits for the end can start the next one
        try:
            self._on_end(result, exc)
        finally:
            self._over.set()

    def _acquire(self) -> Any:
        pulses = self._choose(self._pulse_id.get())
        waiting = self._pulse_id.wait_past(pulses.last)
        with self._lock:
            self._check()
            self._waiting = waiting
        waiting.watch(lambda **kw: self._on_progress(kw["current"], kw["target"]))
        waiting.wait()
        with self._lock:
            self._check()
            self._waiting = self._asking
        return self._ask(pulses)

    def _check(self) -> None:
        if self._given_up.is_set():
            raise Discarded(f"{self._name}: the acquisition was given up before its data were asked for")

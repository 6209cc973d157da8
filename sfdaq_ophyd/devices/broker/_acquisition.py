"""One acquisition: choose the pulses, wait until they are over, ask for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ...errors import Discarded
from ...limits import Limit
from ...wire.pulse_id import PulseRange
from .._worker import Workers


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
        Returns the PulseRange to ask for.
    ask : callable
        Called with the PulseRange once it is over; returns what `on_end` is given.
    on_progress : callable
        Called with (current, target) in machine pulses.
    before : callable, optional
        Returns the status that is waited for before the pulses are chosen.
    on_end : callable
        Called once, with (result, None) or (None, exception), in that thread.
    """

    def __init__(
        self,
        name: str,
        workers: Workers,
        pulse_id: Any,
        choose: Callable[[], PulseRange],
        ask: Callable[[PulseRange], Any],
        *,
        on_progress: Callable[[float, float], None],
        on_end: Callable[[Any, Exception | None], None],
        before: Callable[[], Any] | None = None,
    ):
        self._name, self._pulse_id, self._choose, self._ask = name, pulse_id, choose, ask
        self._on_progress, self._on_end, self._before = on_progress, on_end, before
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
        if self._before is not None:
            self._wait_for(self._before())
        pulses = self._choose()
        self._wait_for(self._pulse_id.wait_past(pulses.last))
        with self._lock:
            self._check()
            self._waiting = self._asking
        return self._ask(pulses)

    def _wait_for(self, status: Any) -> None:
        with self._lock:
            self._check()
            self._waiting = status
        status.watch(lambda **kw: self._on_progress(kw["current"], kw["target"]))
        status.wait()

    def _check(self) -> None:
        if self._given_up.is_set():
            raise Discarded(f"{self._name}: the acquisition was given up before its data were asked for")

"""One acquisition of the broker: its pulses go by, then their data are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from ...errors import Discarded
from ...wire.pulse_id import PulseRange
from .._status import ActionStatus
from .._worker import Workers, ends_within
from ..pulse_id import PulseId


class PulseAcquisition:
    """Pulses that are chosen, waited for, and then asked for, in a thread of the device's.

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
    send : callable
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
        pulse_id: PulseId,
        choose: Callable[[], PulseRange],
        send: Callable[[PulseRange], Any],
        *,
        on_progress: Callable[[float, float], None],
        on_end: Callable[[Any, Exception | None], None],
        before: Callable[[], ActionStatus] | None = None,
    ):
        self._name, self._pulse_id, self._choose, self._send = name, pulse_id, choose, send
        self._on_progress, self._on_end, self._before = on_progress, on_end, before
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._waiting: ActionStatus | None = None
        self._sent, self._running = False, True
        self._over = threading.Event()
        workers.do(self._run)

    @property
    def running(self) -> bool:
        """Whether pulses are still to come, or the reply is."""
        return self._running

    def give_up(self, timeout: float) -> None:
        """Give up unless the request is out; then wait for its reply.

        Parameters
        ----------
        timeout : float
            s that this takes at most.
        """
        with self._lock:
            self._given_up.set()
            if not self._sent and self._waiting is not None:
                self._waiting.succeed()
        ends_within(self._over, timeout)

    def _run(self) -> Callable[[], None]:
        try:
            return partial(self._end, self._acquire(), None)
        except Exception as exc:
            return partial(self._end, None, exc)

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
            self._sent = True
        return self._send(pulses)

    def _wait_for(self, status: ActionStatus) -> None:
        with self._lock:
            self._check()
            self._waiting = status
        status.watch(lambda **kw: self._on_progress(kw["current"], kw["target"]))
        status.wait()

    def _check(self) -> None:
        if self._given_up.is_set():
            raise Discarded(f"{self._name}: the acquisition was given up before its data were asked for")

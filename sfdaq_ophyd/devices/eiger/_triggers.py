"""Software triggers: each blocks until its frames are exposed, so a thread of their own sends long ones."""

from __future__ import annotations

import threading

from ...clients.simplon import SimplonClient
from .._worker import Worker, ends_within

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

    def join(self) -> None:
        """Wait for the reply to the trigger under way."""
        if self._sent is not None:
            ends_within(self._sent, self._n * (self._duration + 2 * self._margin))

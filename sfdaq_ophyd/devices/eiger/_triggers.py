"""Software triggers, sent from a thread of their own: each blocks until its frames are exposed."""

from __future__ import annotations

import threading

from ...clients.simplon import TRIGGER_MARGIN, SimplonClient


class SoftwareTriggers:
    """Send `n` triggers one after the other, each once, from the moment it is made.

    Parameters
    ----------
    duration : float
        s one of them takes.
    count_time : float or None
        Sent along; only in trigger mode ``inte``.
    stop : threading.Event
        Set by whoever gives up: no further trigger is sent, and errors do not matter any more.
    """

    def __init__(
        self, client: SimplonClient, n: int, duration: float, count_time: float | None, stop: threading.Event
    ):
        self._client, self._n, self._duration, self._count_time = client, n, duration, count_time
        self._stop = stop
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"triggers of {client.url}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for _ in range(self._n):
                if self._stop.is_set():
                    return
                self._client.trigger(self._duration, self._count_time)
        except Exception as exc:
            self._problem = exc

    @property
    def done(self) -> bool:
        """Whether all are exposed, or one failed."""
        return not self._thread.is_alive()

    @property
    def problem(self) -> Exception | None:
        """What went wrong with a trigger, unless it was given up."""
        return None if self._stop.is_set() else self._problem

    def join(self) -> None:
        """Wait for the reply to the trigger under way."""
        self._thread.join(self._n * self._duration + 2 * TRIGGER_MARGIN)

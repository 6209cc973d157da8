"""Software triggers: each blocks until its frames are exposed, so long ones get a thread of their own."""

from __future__ import annotations

import threading

from ...clients.simplon import SimplonClient

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
    """

    def __init__(
        self,
        client: SimplonClient,
        n: int,
        duration: float,
        count_time: float | None,
        margin: float,
        stop: threading.Event,
    ):
        self._client, self._n, self._duration, self._count_time = client, n, duration, count_time
        self._margin, self._stop = margin, stop
        self._problem: Exception | None = None
        self._thread: threading.Thread | None = None
        if n * duration <= SHORT:
            self._run()
        else:
            self._thread = threading.Thread(target=self._run, name=f"triggers of {client.url}", daemon=True)
            self._thread.start()

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
        return self._thread is None or not self._thread.is_alive()

    @property
    def problem(self) -> Exception | None:
        """What went wrong with a trigger, unless it was given up."""
        return None if self._stop.is_set() else self._problem

    def join(self) -> None:
        """Wait for the reply to the trigger under way."""
        if self._thread is not None:
            self._thread.join(self._n * (self._duration + 2 * self._margin))

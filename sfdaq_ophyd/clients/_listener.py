"""What is listened to in a thread, for as long as it can be heard: Redis, RabbitMQ."""

from __future__ import annotations

import threading
import time


class Listener:
    """Base of what connects again whenever its connection is lost.

    Attributes
    ----------
    silent_since : float or None
        Since when nothing can be heard, s since the epoch; None while connected.
    """

    def __init__(self):
        self._hears = threading.Event()
        self.silent_since: float | None = time.time()
        self._why = "not started"

    @property
    def state(self) -> str:
        """What to tell a person: that it listens, or since when it hears nothing, and why."""
        since = self.silent_since
        if since is None:
            return "listening"
        return f"hears nothing since {time.strftime('%H:%M:%S', time.localtime(since))}: {self._why}"

    def _fell_silent(self, why: str | Exception) -> None:
        self._hears.clear()
        if isinstance(why, Exception):
            why = f"{type(why).__name__} {why}".strip()
        self.silent_since, self._why = self.silent_since or time.time(), why

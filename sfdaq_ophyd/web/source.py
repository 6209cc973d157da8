"""One thing the page watches: a thread that looks at it now and then, while somebody watches the page."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from typing import Any

from ..errors import shown_url

logger = logging.getLogger(__name__)

DUTY = 0.5
"""Share of its time a look may take: of a slow detector fewer frames are fetched."""

LONGEST_PAUSE = 5.0
"""s between looks at something that does not answer, or is slow."""

GRACE = 1.0
"""s by which a value may be older than its period before it is called old: no thread is punctual."""


class Source(ABC):
    """Look at something every `period` s; `state` tells what was seen last.

    Parameters
    ----------
    name, kind, address : str
        For people.
    period : float
        s between two looks, at least.
    """

    group = ""
    """Which part of the page shows it."""

    def __init__(self, name: str, kind: str, address: str, period: float):
        self.name, self.kind, self.address, self.period = name, kind, shown_url(address), period
        self.problem = ""
        self._last: tuple[dict[str, Any], float | None, float] = {}, None, 0.0  # what, when, how long it took
        self._stop, self._thread = threading.Event(), None

    def start(self, watched: threading.Event) -> None:
        """Look, whenever `watched` is set."""
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._run, args=(watched,), name=f"watch {self.name}", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """Tell the thread to end; `stop` waits for it."""
        self._stop.set()

    def stop(self) -> None:
        """End the thread and let go of the service. Safe twice."""
        self.end()
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None

    def state(self) -> dict[str, Any]:
        """Return what was seen last and how old that is; ready for JSON.

        ``age`` is in s, None before the first answer; beyond ``old_after`` it is old. ``level`` is "good",
        "busy" or "bad", "" while nothing is known.
        """
        seen, seen_at, took = self._last
        age = None if seen_at is None else round(time.monotonic() - seen_at, 2)
        about = {"name": self.name, "kind": self.kind, "address": self.address, "problem": self.problem}
        level = "bad" if self.problem else "" if age is None else seen.get("level", "good")
        old_after = max(self.period, min(took / DUTY, LONGEST_PAUSE)) + GRACE
        return {**about, **seen, "age": age, "old_after": round(old_after, 2), "level": level}

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """Return what is to be seen now; whatever it raises is shown."""

    @abstractmethod
    def rest(self) -> None:
        """Let go of the service: nobody watches. Safe twice."""

    def _run(self, watched: threading.Event) -> None:
        failures = 0
        while not self._stop.is_set():
            if not watched.is_set():
                self.rest()
                while not watched.wait(0.1) and not self._stop.is_set():
                    pass
                continue
            begin = time.monotonic()
            try:
                seen = self.look()
                self._last = seen, begin, time.monotonic() - begin
                self.problem, failures = "", 0
            except Exception as exc:  # a page about trouble must survive it
                logger.debug("%s: %r", self.name, exc)
                self.problem, failures = str(exc) or type(exc).__name__, failures + 1
            took = time.monotonic() - begin
            pause = max(self.period - took, took * (1 / DUTY - 1), 0.25 * 2**failures if failures else 0.0)
            self._stop.wait(min(pause, max(self.period, LONGEST_PAUSE)))
        self.rest()


class Rate:
    """Events per second from a counter, over at least `window` s."""

    def __init__(self, window: float = 1.0):
        self._window, self._marks, self.value = window, [], None

    def update(self, count: float, now: float | None = None) -> float | None:
        """Take a count and the time it was read at; return the rate, None until it is known."""
        now = time.monotonic() if now is None else now
        if self._marks and (count < self._marks[-1][1] or now < self._marks[-1][0]):
            self._marks, self.value = [], None  # counts anew
        self._marks.append((now, count))
        while len(self._marks) > 2 and now - self._marks[1][0] >= self._window:
            self._marks.pop(0)
        first = self._marks[0]
        if now - first[0] >= self._window:
            self.value = round((count - first[1]) / (now - first[0]), 2)
        return self.value

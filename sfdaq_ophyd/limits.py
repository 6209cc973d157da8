"""Limits that are never reached by our own lateness.

A process that was suspended, swapped out or starved has not waited: it could not look. One thread, the
heartbeat, notices such gaps, and all limits of the package are measured in the time it counts.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

BEAT = 0.1
"""s between two beats of the heartbeat."""

LONGEST_GAP = 0.3
"""s that a single beat counts for at the most; what is beyond was not ours to wait in."""


NO_GAP = 0.01
"""s by which two clocks that are read one after the other may differ."""


class _Heartbeat:
    """Count the time in which this process could look, and call what is due."""

    def __init__(self):
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._counted, self._last = 0.0, time.monotonic()
        self._thread: threading.Thread | None = None
        self._due: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Return the counted time, s."""
        with self._lock:
            self._start()
            return self._counted + min(time.monotonic() - self._last, LONGEST_GAP)

    def add(self, alarm: Alarm) -> None:
        """Have `alarm` go off in its time."""
        with self._lock:
            self._start()
            heapq.heappush(self._due, (alarm.due, next(self._order), alarm))

    def _start(self) -> None:
        if self._thread is None:
            self._last = time.monotonic()
            thread = threading.Thread(target=self._run, name="heartbeat of limits", daemon=True)
            thread.start()
            self._thread = thread

    def _beat(self) -> list[Alarm]:
        with self._lock:
            now = time.monotonic()
            self._counted += min(now - self._last, LONGEST_GAP)
            self._last = now
            due = []
            while self._due and self._due[0][0] <= self._counted:
                due.append(heapq.heappop(self._due)[2])
        return due

    def _run(self) -> None:
        while True:
            time.sleep(BEAT)
            for alarm in self._beat():
                alarm.go_off()


_heartbeat = _Heartbeat()


def counted_time() -> float:
    """Return a monotonic time that stands still while this process is suspended or starved, s."""
    return _heartbeat.now()


class Alarm:
    """Call a function once so much counted time has passed, in the heartbeat's thread.

    Parameters
    ----------
    seconds : float
        From now.
    function : callable
        Called without arguments; must be quick.
    """

    def __init__(self, seconds: float, function: Callable[[], object]):
        self._function: Callable[[], object] | None = function
        self.due = counted_time() + seconds
        _heartbeat.add(self)

    def cancel(self) -> None:
        """Do not call it any more. Safe twice, and afterwards."""
        self._function = None

    def go_off(self) -> None:
        """Call the function, unless it was called or cancelled; the heartbeat does this."""
        function, self._function = self._function, None
        if function is not None:
            try:
                function()
            except Exception:
                logger.exception("an alarm failed")


class Limit:
    """A total time for something that is looked at again and again.

    It is reached when its time has passed and the thing was looked at once more after that::

        limit = Limit(5.0)
        while not done():
            if limit.reached():
                raise ServiceTimeout("...", limit.seconds)
            limit.wait(wake, 0.1)

    Parameters
    ----------
    seconds : float or None
        None is never reached.

    Attributes
    ----------
    seconds : float
        The time; infinity where there is no limit.
    """

    def __init__(self, seconds: float | None):
        self.seconds = float("inf") if seconds is None else seconds
        self.restart()

    def restart(self) -> None:
        """Begin anew: there was progress."""
        self._begun, self._passed = counted_time(), False

    @property
    def elapsed(self) -> float:
        """Counted time since it began, s."""
        return counted_time() - self._begun

    @property
    def left(self) -> float:
        """Counted time that is left, s; 0 when it has passed, infinity where there is no limit."""
        return max(0.0, self.seconds - self.elapsed)

    def reached(self) -> bool:
        """Whether the time has passed; call it after each look. The first True needs a look of its own."""
        if self.left > 0:
            return False
        passed, self._passed = self._passed, True
        return passed

    def step(self, longest: float = 0.5) -> float:
        """Return how long to block before the next look, s: what is left, `longest` at the most."""
        return max(0.0, min(self.left, longest))

    def wait(self, event: threading.Event, longest: float = 0.5) -> bool:
        """Block on `event` for one step; return whether it is set."""
        return event.wait(self.step(longest))


_asking = threading.local()
"""Whether this thread is in `asked_again`, as ``now``."""


def asked_again(ask: Callable[[], T], seconds: float | None) -> T:
    """Return the answer to a question whose TimeoutError is measured by others, by the clock on the wall.

    It is asked again where this process could not look while it waited, until `seconds` of counted time have
    passed. Nobody who could look waits any longer than `ask` does. A question within a question is asked
    once: the outer one is asked again.
    """
    if getattr(_asking, "now", False):
        return ask()
    limit, _asking.now = Limit(seconds), True
    try:
        while True:
            begun, counted = time.monotonic(), counted_time()
            try:
                return ask()
            except TimeoutError:
                in_time = counted_time() - counted > time.monotonic() - begun - NO_GAP
                if in_time or limit.reached():
                    raise
    finally:
        _asking.now = False

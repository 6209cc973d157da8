"""A long scan that takes turns with short ones, so that last points and first ones meet the same load."""

from __future__ import annotations

import threading
import time

import numpy as np
from bluesky import RunEngine


class LongScan:
    """A scan in a thread of its own that goes on by so many points as it is told.

    Between two calls it stands still in the callback of an event. ``steps`` has two figures of each point,
    counted from the one before: s of the clock, and of this process on a CPU. An `engine` that is given has
    its subscribers.
    """

    def __init__(self, plan, engine: RunEngine | None = None):
        self.steps: list[np.ndarray] = []
        self._before = np.zeros(2)
        self._go, self._stands, self._left = threading.Semaphore(0), threading.Semaphore(0), 0
        self._engine = engine or RunEngine(context_managers=[])
        self._engine.subscribe(self._point, "event")
        self._thread = threading.Thread(target=self._run, args=[plan], daemon=True)
        self._thread.start()

    def _run(self, plan) -> None:
        self._go.acquire()
        self._engine(plan)

    def _point(self, *_) -> None:
        now = np.array([time.perf_counter(), time.process_time()])
        self.steps.append(now - self._before)
        self._before, self._left = now, self._left - 1
        if not self._left:
            self._stands.release()
            self._go.acquire()

    def go_on(self, n: int) -> np.ndarray:
        """Take `n` more points; return their ``steps``, shape ``(n, 2)``."""
        self._left, self._before = n, np.array([time.perf_counter(), time.process_time()])
        self._go.release()
        while not self._stands.acquire(timeout=1):
            if not self._thread.is_alive():
                raise RuntimeError("the long scan has ended before")
        return np.array(self.steps[-n:])

    def finish(self) -> None:
        """Let it end, after its last point."""
        self._left = -1
        self._go.release()
        self._thread.join()

"""Threads that are kept for the next call: no new one per point."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

IDLE = 10.0
"""s after which a thread that has nothing to do goes."""


class Workers:
    """Carry out functions in threads, each at once; a thread that is done takes the next one.

    Parameters
    ----------
    name : str
        Of the threads.
    """

    def __init__(self, name: str):
        self._name = name
        self._waiting: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._n_idle = self._n_open = 0

    @property
    def n_open(self) -> int:
        """How many functions have not returned yet."""
        return self._n_open

    def do(self, function: Callable[[], object]) -> None:
        """Call `function`, which handles its own errors, in a thread."""
        with self._changed:
            self._waiting.append(function)
            self._n_open += 1
            if len(self._waiting) <= self._n_idle:
                self._changed.notify()
                return
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            finally:
                del function  # what it holds goes with it
                with self._changed:
                    self._n_open -= 1

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._n_idle += 1
            self._changed.wait_for(lambda: self._waiting, IDLE)
            self._n_idle -= 1
            return self._waiting.popleft() if self._waiting else None

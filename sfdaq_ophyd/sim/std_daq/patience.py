"""How long the service waits for its writer: 5 s, divided by the speed, and longer where only CPU is short.

A sped-up service gives up after a fraction of a second. A writer that is alive and would have answered by
then on a quiet machine is given the real 5 s, so that no client sees a refusal for want of CPU.
"""

from __future__ import annotations

from collections.abc import Callable

from ...limits import Limit
from .timing import Timing
from .writer import WriterProcess

LONGEST = 5.0
"""Counted s for which a writer that lags is waited for, at any speed."""


class Patience:
    """What the writer owes.

    Parameters
    ----------
    writer : WriterProcess
    timing : Timing
    """

    def __init__(self, writer: WriterProcess, timing: Timing):
        self._writer, self._timing = writer, timing
        self._n_starts = self._n_stops = self._counted = self._process = 0
        self._slow = False

    def started(self, *, slow: bool) -> None:
        """Note that a file is to be created; `slow` takes longer than the service waits by itself."""
        self._renew()
        self._process, self._slow = self._counted, slow
        self._n_starts += not slow

    def stopped(self, *, blocked: bool) -> None:
        """Note that it is to stop; `blocked`, if the driver waits for what it was given before."""
        self._renew()
        self._n_stops += not (self._slow or blocked and self.in_vain)

    def _renew(self) -> None:
        """Forget what another process owed, or a dead one."""
        if self._counted != self._writer.n_starts or not self._writer.alive:
            self._counted = self._writer.n_starts
            self._n_starts = self._n_stops = 0

    def answered(self, what: str) -> None:
        """Note an event of the writer: what it has done."""
        if what == "closed":
            self._n_stops = max(0, self._n_stops - 1)
        elif what in ("opened", "error"):
            self._n_starts, self._slow = max(0, self._n_starts - 1), False

    def lags(self) -> bool:
        """Tell whether it lives and owes an answer that a quiet machine would have given."""
        return self._n_starts + self._n_stops > 0 and self._is_same

    @property
    def _is_same(self) -> bool:
        return self._writer.alive and self._counted == self._writer.n_starts

    @property
    def stop_is_due(self) -> bool:
        """Whether it has nothing else to do than to answer to a stop."""
        return self._n_stops > 0 and not self._n_starts and not self._slow and self._is_same

    @property
    def in_vain(self) -> bool:
        """Whether the process that was told to create the file is gone, with what it was given."""
        return not self._writer.alive or self._process != self._writer.n_starts

    def over(self) -> Callable[[], bool]:
        """Return what tells, look by look, whether the service gives up."""
        limit, longest = Limit(self._timing.give_up), Limit(LONGEST)
        return lambda: limit.reached() and not (self.lags() and not longest.reached())

"""The driver's end of the writer process: start it, kill it, talk to it.

How long the service waits for its writer: 5 s, divided by the speed, and longer where only CPU is short.

A sped-up service gives up after a fraction of a second. A writer that is alive and would have answered by
then on a quiet machine is given the real 5 s, so that no client sees a refusal for want of CPU.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import ServiceUnreachable
from ...limits import Limit
from ...starting import Child
from ..child import HINT
from .settings import StdDaqSettings, Timing

logger = logging.getLogger(__name__)


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


class WriterProcess:
    """A writer that can die: what is sent to a dead one is lost, and nothing comes back.

    Parameters
    ----------
    on_event : callable
        Called with each event (dict), in a thread of this object.
    settings : StdDaqSettings
    writable : sequence of str
        Folders below which it writes.
    clock : Path
        File of the pulse clock, which knows what there was to see at a pulse.
    on_step : callable
        Called with every step of a start.

    Attributes
    ----------
    n_starts : int
        How often a process was started.
    """

    def __init__(
        self,
        on_event: Callable[[dict], None],
        settings: StdDaqSettings,
        writable: Sequence[str],
        clock: Path,
        on_step: Callable[[str], object],
    ):
        self._on_event, self._settings, self._on_step = on_event, settings, on_step
        self._options: list[object] = ["--seed", settings.seed, "--writable", json.dumps(writable)]
        self._options += ["--clock", clock, *["--compressed"] * settings.compressed]
        self._child: Child | None = None
        self._lock = threading.Lock()
        self.n_starts = 0

    @property
    def listening(self) -> bool:
        """Whether the process runs and takes commands."""
        child = self._child
        return child is not None and child.listening

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        child = self._child
        return child is not None and child.running

    def start(self, config: dict) -> None:
        """Start the process with a configuration, in place of one that runs; wait until it listens.

        Raises
        ------
        ServiceTimeout, ServiceUnreachable
            It does nothing more, or it ended by itself.
        """
        self.kill()
        child = Child(
            "sfdaq_ophyd.sim.std_daq.writer_process",
            *("--config", json.dumps(config), *self._options),
            timeout=self._settings.start_timeout,
            title="the DAQ's writer",
            hint=HINT,
            on_line=self._heard,
            on_step=self._on_step,
        )
        with self._lock:
            child.launch()
            self._child = child
            self.n_starts += 1
        try:
            child.wait()
        except ServiceUnreachable:
            if self._child is child:  # not killed by somebody meanwhile
                raise

    def send(self, command: dict) -> None:
        """Send a command; lost if the writer is dead."""
        with self._lock:
            if self._child is None:
                return
            try:
                self._child.send(command)
            except ServiceUnreachable:
                logger.debug("the writer is dead; lost %s", command["do"])

    def kill(self) -> None:
        """Kill the process, as ``kill -9`` would. Safe twice."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.stop(kill=True)

    def _heard(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:  # a line cut short by kill
            return
        self._on_event(event)

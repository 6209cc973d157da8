"""The driver's end of the writer process: start it, kill it, talk to it."""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import ServiceUnreachable
from ...starting import next_line

logger = logging.getLogger(__name__)

UP = "READY"
"""What the process says once it takes commands; steps come before."""


class WriterProcess:
    """A writer that can die: what is sent to a dead one is lost, and nothing comes back.

    Parameters
    ----------
    on_event : callable
        Called with each event (dict), in a thread of this object.
    writable : sequence of str
        Folders below which it writes.
    seed : int
        Of the pictures.
    clock : Path, optional
        File of the pulse clock, which knows what there was to see at a pulse.
    compressed : bool
        Write compressed files.
    start_timeout : float
        s without a step after which its start fails.
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
        *,
        writable: Sequence[str],
        seed: int = 0,
        clock: Path | None = None,
        compressed: bool = False,
        start_timeout: float = 60.0,
        on_step: Callable[[str], object] = lambda step: None,
    ):
        self._on_event, self._writable = on_event, list(writable)
        self._seed, self._compressed = seed, compressed
        self._clock = clock
        self._start_timeout, self._on_step = start_timeout, on_step
        self._process: subprocess.Popen | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._up = threading.Event()
        self.n_starts = 0

    @property
    def listening(self) -> bool:
        """Whether the process runs and takes commands."""
        return self.alive and self._up.is_set()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, config: dict) -> None:
        """Start the process with a configuration, in place of one that runs; wait until it listens.

        Raises
        ------
        ServiceTimeout, ServiceUnreachable
            It does nothing more, or it ended by itself.
        """
        self.kill()
        command = [sys.executable, "-m", "sfdaq_ophyd.sim.std_daq.writer_process"]
        command += ["--config", json.dumps(config), "--seed", str(self._seed)]
        command += ["--writable", json.dumps(self._writable)]
        command += ["--compressed"] * self._compressed
        command += [] if self._clock is None else ["--clock", str(self._clock)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        with self._lock:
            self._process = process
            self.n_starts += 1
        up, lines = threading.Event(), queue.SimpleQueue()
        self._up = up
        self._thread = threading.Thread(
            target=self._listen, args=[process, up, lines], name="writer events", daemon=True
        )
        self._thread.start()
        what = "start of the DAQ's writer"
        line = next_line(lines, process.pid, what=what, timeout=self._start_timeout, on_step=self._on_step)
        if line is None and self._process is process:  # not killed by somebody meanwhile
            raise ServiceUnreachable(what, url="child process", reason="it ended")

    def send(self, command: dict) -> None:
        """Send a command; lost if the writer is dead."""
        with self._lock:
            if self._process is None:
                return
            try:
                self._process.stdin.write(json.dumps(command) + "\n")
                self._process.stdin.flush()
            except (OSError, ValueError):
                logger.debug("the writer is dead; lost %s", command["do"])

    def kill(self) -> None:
        """Kill the process, as ``kill -9`` would. Safe twice."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        try:
            process.stdin.close()
        except OSError:
            pass  # commands it never read
        if self._thread is not threading.current_thread():
            self._thread.join(5)

    def _listen(self, process: subprocess.Popen, up: threading.Event, lines: queue.SimpleQueue) -> None:
        with process.stdout:
            for line in process.stdout:
                if not up.is_set():
                    if line.strip() == UP:
                        up.set()
                    lines.put(line.rstrip("\n"))
                    continue
                try:
                    event = json.loads(line)
                except ValueError:  # a line cut short by kill
                    continue
                self._on_event(event)
        lines.put(None)

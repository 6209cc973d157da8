"""The driver's end of the writer process: start it, kill it, talk to it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable

from ...errors import ServiceTimeout

logger = logging.getLogger(__name__)

START_LIMIT = 30.0
"""s for the process to come up."""


class WriterProcess:
    """A writer that can die: what is sent to a dead one is lost, and nothing comes back.

    Parameters
    ----------
    on_event : callable
        Called with each event (dict), in a thread of this object.
    seed : int
        Of the pictures.
    compressed : bool
        Write compressed files.

    Attributes
    ----------
    n_starts : int
        How often a process was started.
    """

    def __init__(self, on_event: Callable[[dict], None], *, seed: int = 0, compressed: bool = False):
        self._on_event, self._seed, self._compressed = on_event, seed, compressed
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
        """Start the process with a configuration, in place of one that runs; wait until it listens."""
        self.kill()
        command = [sys.executable, "-m", "sfdaq_ophyd.sim.std_daq.writer_process"]
        command += ["--config", json.dumps(config), "--seed", str(self._seed)]
        command += ["--compressed"] * self._compressed
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
        up = self._up = threading.Event()
        self._thread = threading.Thread(
            target=self._listen, args=[process, up], name="writer events", daemon=True
        )
        self._thread.start()
        if not up.wait(START_LIMIT):
            raise ServiceTimeout("writer process", START_LIMIT, "starting")

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

    def _listen(self, process: subprocess.Popen, up: threading.Event) -> None:
        with process.stdout:
            process.stdout.readline()  # it is up, or it died
            up.set()
            for line in process.stdout:
                try:
                    event = json.loads(line)
                except ValueError:  # a line cut short by kill
                    continue
                self._on_event(event)

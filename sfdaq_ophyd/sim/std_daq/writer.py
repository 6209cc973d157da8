"""The writer as a process of its own, which can be killed, and the driver's end of it.

Commands go in as JSON lines, events come out as JSON lines. Commands are ``start`` (path, info, how long
creating the file takes), ``image`` and ``stop``; events ``opened``, ``error``, ``ack`` and ``closed``. The
process ends when its input does.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import ServiceUnreachable
from ...limits import Limit
from ...starting import Child, ChildLimit, report_step, without_collection
from ..child import HINT, commands, make_parser, running_clock, say_ready, tell

with without_collection(ours=__name__ == "__main__"):
    from .files import Pictures, WriterFile, is_below, may_write
    from .settings import StdDaqSettings, Timing

logger = logging.getLogger(__name__)

LONGEST = 5.0
"""Counted s for which a writer that lags, and has CPU, is waited for, at any speed."""

LONGEST_CREATION = 1e6
"""s; no file takes longer to create."""


class OwedAnswers:
    """What the writer owes the service: it waits 5 s, divided by the speed, and longer where CPU is short.

    A sped-up service gives up after a fraction of a second. A writer that is alive and would have answered
    by then on a quiet machine is given the real 5 s of its own, so that no client sees a refusal for want of
    CPU. So what the writer owes is counted here.
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
        limit, longest = Limit(self._timing.give_up), ChildLimit(LONGEST, self._writer.pid)
        return lambda: limit.reached() and not (self.lags() and not longest.reached())


class WriterProcess:
    """A writer that can die: what is sent to a dead one is lost, and nothing comes back.

    `on_event` is called with each event, in a thread of this object, and `on_step` with every step of a
    start. The file `clock` of the pulse clock knows what there was to see at a pulse.
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
        self.n_starts = 0  # so often a process was started

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

    @property
    def pid(self) -> int:
        """Of the process; 0 where there is none."""
        child = self._child
        return 0 if child is None else child.pid

    def start(self, config: dict) -> None:
        """Start the process with a configuration, in place of one that runs; wait until it listens.

        Raises
        ------
        ServiceTimeout, ServiceUnreachable
            It does nothing more, or it ended by itself.
        """
        self.kill()
        child = Child(
            "sfdaq_ophyd.sim.std_daq.writer",
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


# ---- the process itself ------------------------------------------------------------------------------


class DaqWriter:
    """State of the writer: at most one open file, and what the last start asked for."""

    def __init__(self, config: dict, writable: Sequence[str], seed: int, compressed: bool, view):
        self._config, self._writable, self._view = config, writable, view
        self._seed, self._compressed = seed, compressed
        self._pictures: Pictures | None = None
        self._file: WriterFile | None = None
        self._n_images = self._n_written = 0

    def start(self, command: dict) -> dict:
        """Open a file, closing the one that is open without a word."""
        self._close()
        self._n_images, self._n_written = command["info"]["n_images"], 0
        try:
            time.sleep(min(command["delay"], LONGEST_CREATION))
            if command.get("error"):
                raise OSError(command["error"])
            self._open(command["path"])
        except ValueError as exc:
            return {"event": "error", "text": f"ERROR: {exc}"}
        except OSError:
            return {"event": "error", "text": "ERROR: Cannot create output file."}
        return {"event": "opened", "info": command["info"]}

    def image(self, command: dict) -> dict | None:
        """Write one image; without an open file it is lost."""
        if self._file is None:
            return None
        self._file.write(command["image_id"], command["pulse_id"], command["status"], command["ahead"])
        self._n_written += 1
        return {"event": "ack"}

    def stop(self, command: dict) -> dict:
        """Close the file. The first image counts as written even if none came: the real one's slip."""
        self._close()
        completed = max(self._n_written, 1) == self._n_images
        return {"event": "closed", "message": "Completed." if completed else "Interrupted."}

    def _open(self, path: str) -> None:
        config = self._config
        name, bit_depth, user_id = (config[key] for key in ("detector_name", "bit_depth", "writer_user_id"))
        if bit_depth not in (8, 16, 32):
            raise ValueError(f"Unsupported bits per pixel:{bit_depth}")
        if not is_below(path, self._writable) or not may_write(os.path.dirname(path), user_id):
            raise PermissionError(path)
        if self._pictures is None:
            shape = (config["image_pixel_height"], config["image_pixel_width"])
            self._pictures = Pictures(name, shape, bit_depth, self._seed, self._view)
        self._file = WriterFile(path, name, self._n_images, self._pictures, compressed=self._compressed)
        os.chmod(path, 0o644)
        if user_id >= 1 and os.geteuid() == 0:
            os.chown(path, user_id, -1)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def main() -> None:
    """Serve the commands on standard input."""
    parser = make_parser("sfdaq_ophyd.sim.std_daq.writer", main.__doc__, control=False)
    parser.add_argument("--config", type=json.loads, required=True)
    parser.add_argument("--writable", type=json.loads, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compressed", action="store_true")
    with running_clock(parser) as (options, clock):
        report_step("making the writer")
        writer = DaqWriter(options.config, options.writable, options.seed, options.compressed, clock.view)
        say_ready()
        for command in commands():
            event = getattr(writer, command["do"])(command)
            if event is not None:
                tell(event)


if __name__ == "__main__":
    main()

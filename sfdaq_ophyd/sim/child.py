"""A simulator in a child process: READY on its first line, then one JSON command per line, one reply each.

Before READY it may report steps (`sfdaq_ophyd.starting`). The child ends when its standard input does, so it
never outlives its parent, however that ended.
"""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from ..errors import RequestError, ServiceTimeout, ServiceUnreachable
from ..starting import next_line
from .part import World

logger = logging.getLogger(__name__)

HINT = "A slow machine needs more: Facility(start_timeout=...), sfdaq sim --start-timeout"


class Child:
    """Start ``python -m module arguments...`` and talk to it.

    Parameters
    ----------
    module : str
        What to run.
    *arguments : str
        Its command line.
    timeout : float
        s without a step before READY, and for every reply; those in which it had no CPU do not count.
    env : dict, optional
        Its environment; default is ours.
    """

    def __init__(
        self, module: str, *arguments: object, timeout: float = 60.0, env: dict[str, str] | None = None
    ):
        self._module, self._timeout, self._env = module, timeout, env
        self._arguments = [str(argument) for argument in arguments]
        self._process: subprocess.Popen | None = None
        self._pid = 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._said: deque[str] = deque(maxlen=50)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def launch(self) -> None:
        """Begin to start; `wait` comes next."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._env,
            start_new_session=True,  # Ctrl-C reaches the parent, which then ends the child in order
        )
        self._pid, self._lines = self._process.pid, queue.Queue()
        follow = ((self._process.stdout, self._lines.put), (self._process.stderr, self._complain))
        self._threads = [threading.Thread(target=_follow, args=pair, daemon=True) for pair in follow]
        for thread in self._threads:
            thread.start()

    def wait(self) -> str:
        """Return what follows READY, once it is there.

        Raises
        ------
        ServiceTimeout
            It reported nothing more.
        ServiceUnreachable
            It ended, with its last words, or said something else.
        """
        try:
            line = self._reply(f"start of {self._module}")
            if not line.startswith("READY"):
                raise ServiceUnreachable(self._module, url="child process", reason=line)
        except BaseException:
            self.stop(kill=True)
            raise
        return line.removeprefix("READY").strip()

    def start(self) -> str:
        """Launch and wait."""
        self.launch()
        return self.wait()

    def ask(self, command: dict[str, Any]) -> Any:
        """Send a command, return its value; RequestError with the child's words if it refuses."""
        with self._lock:
            if self._process is None:
                raise ServiceUnreachable(self._module, url="child process", reason="not running")
            try:
                self._process.stdin.write(json.dumps(command) + "\n")
                self._process.stdin.flush()
            except OSError as exc:
                raise ServiceUnreachable(self._module, url="child process", reason=exc) from exc
            try:
                reply = json.loads(self._reply(f"{self._module}: answer to {command}"))
            except ServiceTimeout:
                self.stop(kill=True)  # its late answer is not the next command's
                raise
        if "error" in reply:
            raise RequestError("command", command, f"something else: {reply['error']}")
        return reply["value"]

    @property
    def running(self) -> bool:
        """It was started, and neither stopped nor ended by itself."""
        return self._process is not None and self._process.poll() is None

    def stop(self, kill: bool = False) -> None:
        """End the child and wait for it; with `kill`, without giving it a chance. Safe twice."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        try:
            process.stdin.close()
        except OSError:
            pass  # it was gone already
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join(5)

    def _complain(self, line: str | None) -> None:
        if line is not None:
            self._said.append(line)
            logger.debug("%s: %s", self._module, line)

    def _reply(self, what: str) -> str:
        line = next_line(
            self._lines, self._pid, what=what, timeout=self._timeout, said=self._last_words, hint=HINT
        )
        if line is None:
            self._threads[1].join(1)
            reason = f"it ended; its last words: {self._last_words() or 'none'}"
            raise ServiceUnreachable(what, url="child process", reason=reason)
        return line

    def _last_words(self) -> str:
        return "; ".join(list(self._said)[-5:])


class ChildPart(ABC):
    """A part that is a child process: ``python -m`` its package, with the clock and its settings.

    Parameters
    ----------
    world : World
        Clock, ports and limits of the facility.
    settings : dataclass instance
        Goes to the child as JSON.
    """

    name = ""

    def __init__(self, world: World, settings: Any):
        self._world, self._settings = world, settings
        self._child: Child | None = None

    def launch(self) -> None:
        """Begin to start the child."""
        world, settings = self._world, self._settings
        options = {key: getattr(settings, key) for key in settings.__dataclass_fields__}
        self._child = Child(
            type(self).__module__.rpartition(".")[0],
            *("--control", "--clock", world.clock.path, "--start-pulse-id", world.clock.start_pulse_id),
            *("--settings", json.dumps(options), *self._port_options()),
            timeout=world.start_timeout,
        )
        self._child.launch()

    def start(self) -> None:
        """Return once it serves."""
        if self._child is None:
            self.launch()
        self._take_addresses(json.loads(self._child.wait()))

    def stop(self) -> None:
        """End the child. Safe twice."""
        if self._child is not None:
            self._child.stop()

    @abstractmethod
    def _port_options(self) -> list[object]:
        """Return the words of the command line that say which ports to serve."""

    @abstractmethod
    def _take_addresses(self, addresses: dict[str, Any]) -> None:
        """Take note of where the child serves."""

    def _ask(self, what: str, /, **command) -> Any:
        if self._child is None:
            raise RequestError(self.name, what, "a part that was started")
        return self._child.ask({"do": what, **command})


def _follow(stream, sink) -> None:
    with stream:
        for line in stream:
            sink(line.rstrip("\n"))
    sink(None)


def read_commands(into: queue.Queue) -> None:
    """Child's side: put every command on standard input into a queue, None at its end. Returns at once."""

    def read():
        for line in sys.stdin:
            into.put(json.loads(line))
        into.put(None)

    threading.Thread(target=read, name="commands", daemon=True).start()


def reply(answer) -> None:
    """Child's side: print the reply to a command, computed by ``answer()``; its exception is the error."""
    try:
        message = {"value": answer()}
    except Exception as exc:
        message = {"error": f"{type(exc).__name__}: {exc}"}
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()

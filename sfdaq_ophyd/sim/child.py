"""A simulator in a child process: READY on its first line, then one JSON command per line, one reply each.

Before READY it may report steps (`sfdaq_ophyd.starting`). The child ends when its standard input does, so it
never outlives its parent, however that ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import queue
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

from ..errors import RequestError, ServiceTimeout, ServiceUnreachable
from ..starting import next_line
from .clock import PulseClock
from .world import World

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
    title : str, optional
        What messages call it; default is `module`.
    on_line : callable, optional
        Called with every line after READY, in a thread of this object: for a child that replies to nothing.
    on_step : callable, optional
        Called with every step of its start.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        timeout: float = 60.0,
        env: dict[str, str] | None = None,
        title: str = "",
        on_line: Callable[[str], object] | None = None,
        on_step: Callable[[str], object] | None = None,
    ):
        self._module, self._timeout, self._env = module, timeout, env
        self._title, self._on_line, self._on_step = title or module, on_line, on_step
        self._arguments = [str(argument) for argument in arguments]
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._said: deque[str] = deque(maxlen=50)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._ready = threading.Event()

    def launch(self) -> None:
        """Begin to start; `wait` comes next."""
        process = subprocess.Popen(
            [sys.executable, "-m", self._module, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._env,
            start_new_session=True,  # Ctrl-C reaches the parent, which then ends the child in order
        )
        assert process.stdout is not None and process.stderr is not None  # pipes
        self._process, self._pid, self._lines = process, process.pid, queue.Queue()
        self._ready = threading.Event()
        hear = partial(self._hear, self._lines, self._ready)
        follow = ((process.stdout, hear), (process.stderr, self._complain))
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
            line = self._reply(f"start of {self._title}", self._on_step)
            if not line.startswith("READY"):
                raise ServiceUnreachable(self._title, url="child process", reason=line)
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
            self.send(command)
            try:
                reply = json.loads(self._reply(f"{self._title}: answer to {command}"))
            except ServiceTimeout:
                self.stop(kill=True)  # its late answer is not the next command's
                raise
        if "error" in reply:
            raise RequestError("command", command, f"something else: {reply['error']}")
        return reply["value"]

    def send(self, command: dict[str, Any]) -> None:
        """Send a command, and wait for nothing; ServiceUnreachable if it does not run."""
        process = self._process
        if process is None or process.stdin is None:
            raise ServiceUnreachable(self._title, url="child process", reason="not running")
        try:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
        except (OSError, ValueError) as exc:  # it ended, or was stopped meanwhile
            raise ServiceUnreachable(self._title, url="child process", reason=exc) from exc

    @property
    def listening(self) -> bool:
        """It runs, and has said READY."""
        return self.running and self._ready.is_set()

    @property
    def running(self) -> bool:
        """It was started, and neither stopped nor ended by itself."""
        return self._process is not None and self._process.poll() is None

    def stop(self, kill: bool = False) -> None:
        """End the child and wait for it; with `kill`, without giving it a chance. Safe twice."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
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
            if thread is not threading.current_thread():
                thread.join(5)

    def _hear(self, lines: queue.Queue[str | None], ready: threading.Event, line: str | None) -> None:
        if line is not None and self._on_line is not None and ready.is_set():
            self._on_line(line)
            return
        if line is not None and line.startswith("READY"):
            ready.set()
        lines.put(line)

    def _complain(self, line: str | None) -> None:
        if line is not None:
            self._said.append(line)
            logger.debug("%s: %s", self._module, line)

    def _reply(self, what: str, on_step: Callable[[str], object] | None = None) -> str:
        line = next_line(
            self._lines,
            self._pid,
            what=what,
            timeout=self._timeout,
            said=self._last_words,
            hint=HINT,
            on_step=on_step,
        )
        if line is None:
            self._threads[1].join(1)
            reason = f"it ended; its last words: {self._last_words() or 'none'}"
            raise ServiceUnreachable(what, url="child process", reason=reason)
        return line

    def _last_words(self) -> str:
        return "; ".join(list(self._said)[-5:])


class ChildPart(ABC):
    """A part that is a child process: ``python -m`` its package, with the clock.

    Parameters
    ----------
    world : World
        Clock, ports and limits of the facility.
    """

    name = ""

    def __init__(self, world: World):
        self._world = world
        self._child: Child | None = None

    def launch(self) -> None:
        """Begin to start the child."""
        world = self._world
        self._child = Child(
            type(self).__module__.rpartition(".")[0],
            *("--control", "--clock", world.clock.path, *self._arguments()),
            timeout=world.start_timeout,
            env=self._environment(),
        )
        self._child.launch()

    def start(self) -> None:
        """Return once it serves."""
        if self._child is None:
            self.launch()
        assert self._child is not None
        self._take_addresses(self._child.wait())

    def stop(self) -> None:
        """End the child. Safe twice."""
        if self._child is not None:
            self._child.stop()

    @abstractmethod
    def _arguments(self) -> list[object]:
        """Return the rest of the child's command line."""

    def _environment(self) -> dict[str, str] | None:
        """Return the child's environment; None for ours."""
        return None

    @abstractmethod
    def _take_addresses(self, said: str) -> None:
        """Take note of where the child serves, as it says after READY."""

    def _with_settings(self, settings: Any, *words: object) -> list[object]:
        """Return the words of a command line for a dataclass of settings, as JSON, and `words`."""
        options = {key: getattr(settings, key) for key in settings.__dataclass_fields__}
        start = self._world.clock.start_pulse_id
        return ["--start-pulse-id", start, "--settings", json.dumps(options), *words]

    def _ask(self, what: str, /, **command) -> Any:
        if self._child is None:
            raise RequestError(self.name, what, "a part that was started")
        return self._child.ask({"do": what, **command})


def _follow(stream: IO[str], sink: Callable[[str | None], object]) -> None:
    with stream:
        for line in stream:
            sink(line.rstrip("\n"))
    sink(None)


def make_parser(package: str, about: str | None, *, control: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options that all simulators have; see `running_clock`."""
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    parser.add_argument("--clock", help="file of another process's pulse clock")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    if control:
        parser.add_argument("--control", action="store_true", help="take JSON commands on standard input")
        parser.add_argument("--start-pulse-id", type=int, help="frame numbers count from here")
    return parser


@contextlib.contextmanager
def running_clock(
    parser: argparse.ArgumentParser, quiet: int = logging.WARNING, verbose: int = logging.INFO
) -> Iterator[tuple[argparse.Namespace, PulseClock]]:
    """Parse the command line, log from level `quiet` or `verbose` on as it says; yield it and the clock."""
    options = parser.parse_args()
    logging.basicConfig(level=verbose if options.verbose else quiet)
    clock = PulseClock(options.clock)
    try:
        yield options, clock
    finally:
        clock.close()


def on_signal(end: Callable[[], object]) -> None:
    """Call ``end()`` at Ctrl-C and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end())


def say_ready(*said: str) -> None:
    """Say that it serves, and where."""
    print("READY", *said, flush=True)  # noqa: T201 - the parent, or a person, reads it


def read_commands(into: queue.Queue) -> None:
    """Child's side: put every command on standard input into a queue, None at its end. Returns at once."""

    def read():
        for line in sys.stdin:
            into.put(json.loads(line))
        into.put(None)

    threading.Thread(target=read, name="commands", daemon=True).start()


def obey(do: Callable[..., object]) -> None:
    """Child's side: reply to every command with what ``do(**command)`` returns, until there are no more."""
    for line in sys.stdin:
        reply(partial(do, **json.loads(line)))


def reply(answer: Callable[[], object]) -> None:
    """Child's side: print the reply to a command, computed by ``answer()``; its exception is the error."""
    try:
        message = {"value": answer()}
    except Exception as exc:
        message = {"error": f"{type(exc).__name__}: {exc}"}
    sys.stdout.write(json.dumps(message, default=float) + "\n")
    sys.stdout.flush()

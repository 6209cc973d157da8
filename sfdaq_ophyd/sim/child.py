"""A simulator in a child process: READY on its first line, then one JSON command per line, one reply each.

Before READY it may report steps (`sfdaq_ophyd.starting`). The child ends when its standard input does, so it
never outlives its parent, however that ended.
"""

from __future__ import annotations

import _thread  # noqa: PLC2701 - starting a thread by it takes no lock
import argparse
import contextlib
import json
import logging
import queue
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..errors import RequestError, ServiceUnreachable
from ..starting import Child
from .clock import PulseClock
from .facility import World

logger = logging.getLogger(__name__)

HINT = (
    "A slow machine needs more: sfdaq demo or sim --start-timeout, sim.start_timeout in sfdaq.yaml, "
    "Facility(start_timeout=...)"
)
"""What a person does about a simulator that does not start in time."""

ENDED = "Its own words tell; is everything installed that it needs, and are its ports free?"
"""What a person does about a simulator that ends while it starts."""


class ChildPart(ABC):
    """A part that is a child process: ``python -m`` its package, with the clock of its world."""

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
            hint=HINT,
            env=self._environment(),
        )
        self._child.launch()

    def start(self) -> None:
        """Return once it serves."""
        if self._child is None:
            self.launch()
        assert self._child is not None
        try:
            said = self._child.wait()
        except ServiceUnreachable as exc:
            exc.advice = ENDED
            raise
        self._take_addresses(said)

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

    def _command(self, what: str, /, **command) -> Any:
        if self._child is None:
            raise RequestError(self.name, what, "a part that was started")
        return self._child.ask({"do": what, **command})


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
    """Call ``end()`` at Ctrl-C and SIGTERM, in a thread: the main one may hold the lock that `end` takes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _thread.start_new_thread(end, ()))


def say_ready(*said: str) -> None:
    """Say that it serves, and where."""
    print("READY", *said, flush=True)  # noqa: T201 - the parent, or a person, reads it


def commands() -> Iterator[dict[str, Any]]:
    """Child's side: return the commands on standard input, as they come."""
    return map(json.loads, sys.stdin)


def read_commands(into: queue.Queue) -> None:
    """Child's side: put every command on standard input into a queue, None at its end. Returns at once."""

    def read():
        for command in commands():
            into.put(command)
        into.put(None)

    threading.Thread(target=read, name="commands", daemon=True).start()


def obey(do: Callable[..., object]) -> None:
    """Child's side: reply to every command with what ``do(**command)`` returns, until there are no more."""
    for command in commands():
        reply(partial(do, **command))


def reply(answer: Callable[[], object]) -> None:
    """Child's side: print the reply to a command, computed by ``answer()``; its exception is the error."""
    try:
        message = {"value": answer()}
    except Exception as exc:
        message = {"error": f"{type(exc).__name__}: {exc}"}
    tell(message)


def tell(message: dict[str, Any]) -> None:
    """Child's side: print a line for the parent."""
    sys.stdout.write(json.dumps(message, default=float) + "\n")
    sys.stdout.flush()

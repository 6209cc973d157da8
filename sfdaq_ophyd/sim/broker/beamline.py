"""A beamline around the services: delays, folders, the trigger, who calls from where, and refusals."""

from __future__ import annotations

import datetime
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ...wire.broker import SUBNET_LENGTH, TRIGGER_RUNNING, TRIGGER_STOPPED, Dialect, beamline_of_address
from ..clock import PulseClock


class ValidationError(Exception):
    """The request is wrong: `text` in the words of the current dialect, and those of the documented one."""

    def __init__(self, text: str, documented: str | None = None):
        super().__init__(text)
        self.documented = text if documented is None else documented


class NothingToDo(RuntimeError):
    """A retrieval without sources: an error today, "pass" in the documented dialect."""


class AMQPConnectionError(Exception):
    """The message broker is down; its text is empty."""


class TriggerError(Exception):
    """The trigger PV does not take the event code."""


def envelope(exc: Exception, dialect: Dialect) -> dict[str, Any]:
    """Return the reply that reports `exc`."""
    if dialect == "current":
        name = "RuntimeError" if isinstance(exc, NothingToDo) else type(exc).__name__
        return {"status": "error", "message": str(exc), "exception": name}
    if isinstance(exc, NothingToDo):
        return {"status": "pass", "message": "everything fine but no request to write any data"}
    if isinstance(exc, ValidationError):
        return {"status": "failed", "message": exc.documented}
    return {"state": "error", "status": str(exc)}


def required(request: Any, *names: str, documented: str | None = None) -> None:
    """Refuse a request that lacks one of the keys, in order."""
    for name in names:
        if name not in request:
            raise ValidationError(
                f'no "{name}" provided in the request parameters',
                documented or f"no {name} in request parameters",
            )


TRIGGER_SETTLE = 4.0
DETECTOR_MODE = 1.0
MODULE_POWER = 1.0
MESSAGE_BROKER_DOWN = 1.0
DETECTOR_BUFFER = 10.0
DATA_BUFFERS = 60.0
EVALUATION = 5.0
POWER_ON_STEP = 0.7
"""Seconds, measured with the real services (wire reference sf-daq-broker, sections 5 to 9)."""


class Delays:
    """Wait for the servers' delays, times `factor`, and stop waiting when the simulator stops."""

    def __init__(self, factor: float):
        self.factor = factor
        self.stopped = threading.Event()
        self.wall_clock = time.time

    def wait(self, seconds: float) -> None:
        """Wait `seconds` of the real services; `Stopped` if the simulator stops meanwhile."""
        if self.stopped.wait(max(seconds, 0.0) * self.factor):
            raise Stopped

    def now(self) -> datetime.datetime:
        """Return the server's local time."""
        return datetime.datetime.fromtimestamp(self.wall_clock())

    def request_time(self) -> str:
        """Return the time as the server writes it into a request."""
        return self.now().strftime("%Y-%m-%d %H:%M:%S.%f")


class Stopped(Exception):
    """The simulator stops: leave."""


ROOTS = ("sf", "gpfs", "home")
"""Mount points that always exist; nothing of the host itself is ever read or written."""


class Tree:
    """Absolute paths of the servers, kept below one directory, with one folder per mount point."""

    def __init__(self, directory: Path):
        self.directory, self._real = directory, Path(os.path.realpath(directory))
        self._roots: set[str] = set()
        for root in ROOTS:
            self.mount(root)
        self.group_ids: dict[str, int] = {}
        self.default_group: int | None = None

    @property
    def sf(self) -> Path:
        """The folder that stands for ``/sf``."""
        return self.directory / "sf"

    def mount(self, root: str) -> None:
        """Add a mount point, empty unless it was there before; `root` without slashes."""
        self._roots.add(root)
        (self.directory / root).mkdir(parents=True, exist_ok=True)

    def local(self, path: str) -> Path:
        """Return where a server's path lies; FileNotFoundError outside of the mount points.

        A link that leads out of them is outside too: nothing a client names is written or read there.
        """
        parts = PurePosixPath(path).parts
        if parts[:1] == ("/",) and len(parts) > 1 and parts[1] in self._roots and ".." not in parts:
            local = self.directory.joinpath(*parts[1:])
            if Path(os.path.realpath(local)).is_relative_to(self._real):
                return local
        raise FileNotFoundError(2, "No such file or directory", path)

    def remote(self, path: Path) -> str:
        """Return the server's name of a local path."""
        return str(PurePosixPath("/", *path.relative_to(self.directory).parts))

    def exists(self, path: str) -> bool:
        """Say whether a file or directory is there."""
        try:
            return self.local(path).exists()
        except FileNotFoundError:
            return False

    def group_id(self, path: str) -> int:
        """Return the group of a file, or what a test says it is."""
        if path in self.group_ids:
            return self.group_ids[path]
        return self.local(path).stat().st_gid if self.default_group is None else self.default_group

    def make(self, path: str) -> Path:
        """Make a directory with its parents, and return where it lies."""
        local = self.local(path)
        local.mkdir(parents=True, exist_ok=True)
        return local

    def read_text(self, path: str) -> str:
        """Return the content of a file."""
        return self.local(path).read_text()

    def write_text(self, path: str, text: str) -> None:
        """Write a file; its directory must exist."""
        self.local(path).write_text(text)

    def append_text(self, path: str, text: str) -> None:
        """Append to a file."""
        with self.local(path).open("a") as file:
            file.write(text)

    def read_json(self, path: str) -> Any:
        """Return the content of a JSON file."""
        return json.loads(self.read_text(path))

    def write_json(self, path: str, content: Any, *, sort_keys: bool = False) -> None:
        """Write a JSON file."""
        self.write_text(path, json.dumps(content, indent=4, sort_keys=sort_keys))


_STILL = 2**63 - 1


class Trigger:
    """One beamline's trigger; its event code is kept here unless it is that of a PV.

    Attributes
    ----------
    stuck : int
        How many of the next writes are lost.
    """

    def __init__(self, delays: Delays, clock: PulseClock):
        self._delays, self._clock = delays, clock
        self._stops: deque[list[int]] = deque(maxlen=1000)  # [first pulse missed, last]
        self.stuck, self._value = 0, TRIGGER_RUNNING
        self.use_pv(lambda: self._value, partial(setattr, self, "_value"))

    def use_pv(self, read: Callable[[], float], write: Callable[[int], object]) -> None:
        """Read and write the event code by these from now on."""
        self._read, self._write = read, write

    @property
    def value(self) -> int:
        """The event code."""
        return int(self._read())

    @property
    def running(self) -> bool:
        """Whether the detectors are triggered."""
        return self.value == TRIGGER_RUNNING

    def stop(self) -> None:
        """Stop the trigger, wait, and make sure."""
        self._set(TRIGGER_STOPPED, "stop")
        if not (self._stops and self._stops[-1][1] == _STILL):
            self._stops.append([self._clock.now(), _STILL])

    def start(self) -> None:
        """Start the trigger, wait, and make sure."""
        self._set(TRIGGER_RUNNING, "start")
        if self._stops and self._stops[-1][1] == _STILL:
            self._stops[-1][1] = self._clock.now()

    def missed(self, pulse_ids: Iterable[int]) -> set[int]:
        """Return the pulses during which the services had it stopped."""
        stops = list(self._stops)
        return {pulse for pulse in pulse_ids if any(first <= pulse <= last for first, last in stops)}

    def _set(self, value: int, action: str) -> None:
        for _ in range(2):
            if self.stuck:
                self.stuck -= 1
            else:
                self._write(value)
            self._delays.wait(TRIGGER_SETTLE)
            if self.value == value:
                return
        raise TriggerError(f"trigger did not {action}: event code is {self.value}, not {value}")


_REJECTED = "can not determine from which console request came, rejected"


def beamline_of(address: str, dialect: Dialect) -> str:
    """Return the name of the beamline of a client address.

    Raises
    ------
    ValueError
        It is nobody's (current).
    ValidationError
        It is nobody's (documented, where diavolezza does not exist yet).
    """
    beamline = beamline_of_address(address)
    if dialect == "documented":
        if beamline is None or beamline.name == "diavolezza" or len(address) == SUBNET_LENGTH:
            raise ValidationError(_REJECTED)
        return beamline.name
    if len(address) < SUBNET_LENGTH:
        raise ValueError(f"cannot extract subnet from requester network IP {address}")
    if beamline is None:
        raise ValueError(f"cannot match requester network IP {address} to beamline")
    return beamline.name

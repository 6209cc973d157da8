"""What the services, the writers and the faults of one simulated broker share; its message broker."""

from __future__ import annotations

import datetime
import json
import logging
import os
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ...wire.broker import SUBNET_LENGTH, TRIGGER_RUNNING, TRIGGER_STOPPED, Dialect, beamline_of_address
from ...wire.detector_name import DetectorName
from ..clock import PulseClock
from ..facility import World
from ..faults import Faults
from ..http import BoundedLog
from .hardware import BUFFER, FRESH, DetectorEntry, DetectorHardware, Table

logger = logging.getLogger(__name__)


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


class SimulatedTrigger:
    """One beamline's trigger; its event code is kept here unless it is that of a PV.

    Parameters
    ----------
    live : bool
        Whether it is that of the live detectors, which the clock tells of it.

    Attributes
    ----------
    stuck : int
        How many of the next writes are lost.
    """

    def __init__(self, delays: Delays, clock: PulseClock, live: bool):
        self._delays, self._clock, self._live = delays, clock, live
        self._stops: deque[list[int]] = deque(maxlen=1000)  # [first pulse missed, last]
        self.stuck, self._value = 0, TRIGGER_RUNNING
        self.use_pv(lambda: self._value, self._keep)

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
        """Return the pulses without trigger: as the live detectors saw it, or as the services had it."""
        if self._live:
            return {pulse for pulse in pulse_ids if not self._clock.view(pulse).triggered}
        stops = list(self._stops)
        return {pulse for pulse in pulse_ids if any(first <= pulse <= last for first, last in stops)}

    def _keep(self, value: int) -> None:
        self._value = value
        if self._live:
            self._clock.show(triggered=value == TRIGGER_RUNNING)

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


class SimulatedHardware:
    """All detectors, and the buffer they write into."""

    def __init__(self, tree: Tree):
        self._tree = tree
        self._detectors: dict[str, DetectorHardware] = {}

    def __getitem__(self, name: str) -> DetectorHardware:
        return self._detectors.setdefault(name, DetectorHardware(name))

    def write_latest(self, name: str, module: int, age: float = 0.0) -> None:
        """Make a module's LATEST file look `age` s old: by it the servers tell whether the module writes."""
        local = self._latest(name, module)
        local.parent.mkdir(parents=True, exist_ok=True)
        local.touch()
        then = time.time() - age
        os.utime(local, (then, then))

    def refresh(self, name: str, triggered: bool) -> None:
        """Let the modules that take frames write into the buffer."""
        detector = self._detectors.get(name)
        if detector is None or not (detector.configured and triggered):
            return
        for number, module in enumerate(detector.modules):
            if module.state == "running" and module.reachable and module.powered:
                self.write_latest(name, number)

    def writing(self, name: str) -> list[bool]:
        """Say for each module whether it wrote in the last 30 s; the future counts."""
        files = [self._latest(name, number) for number in range(DetectorName.parse(name).n_modules)]
        return [file.exists() and time.time() - file.stat().st_mtime < FRESH for file in files]

    def _latest(self, name: str, module: int) -> Path:
        return self._tree.local(f"{BUFFER}/{name}/M{module:02d}/LATEST")


Message = dict[str, Any]
"""Exchange, routing_key, correlation_id, timestamp, headers, body: what a listener of RabbitMQ sees."""


class ServiceCall(NamedTuple):
    """One request to a service, for tests."""

    endpoint: str
    request: Any
    client: str
    reply: Any
    started: float


class Site:
    """One DAQ.

    Attributes
    ----------
    home : str
        Beamline of whoever calls from this machine.
    requests : BoundedLog of LoggedRequest
        What came in; the oldest are forgotten in the end.
    """

    def __init__(
        self, world: World, dialect: Dialect, home: str, table: Table, delays: Delays, faults: Faults
    ):
        self.dialect, self.home, self.table, self.delays, self.faults = dialect, home, table, delays, faults
        self.clock, self.tree = world.clock, Tree(world.directory / "broker")
        self.hardware, self.messages = SimulatedHardware(self.tree), MessageBus(dialect, delays, faults)
        self.requests: BoundedLog[ServiceCall] = BoundedLog()
        self._triggers: dict[str, SimulatedTrigger] = {}

    def trigger(self, beamline: str) -> SimulatedTrigger:
        """Return a beamline's trigger."""
        return self._triggers.setdefault(
            beamline, SimulatedTrigger(self.delays, self.clock, beamline == self.home)
        )

    def sends_current(self, current: dict[str, Any], documented: dict[str, Any]) -> dict[str, Any]:
        """Choose the reply of the dialect."""
        return current if self.dialect == "current" else documented


def detectors_of(site: Site, beamline: str) -> tuple[DetectorEntry, ...]:
    """Return a beamline's detectors; RuntimeError if it has none."""
    if beamline not in site.table:
        raise RuntimeError(f"no detectors configured for beamline {beamline}")
    return site.table[beamline]


def check_belongs(site: Site, beamline: str, *detectors: str) -> None:
    """Refuse detectors of other beamlines, in order."""
    allowed = [entry.name for entry in detectors_of(site, beamline)]
    for name in detectors:
        if name not in allowed:
            raise ValidationError(
                f"detector {name} does not belong to beamline {beamline}",
                f"{name} not belongs to the {beamline}",
            )


class Caller:
    """Who sent a request; `address` is None for this machine, which counts as the home beamline."""

    def __init__(self, site: Site, address: str | None):
        self._site, self.address = site, address

    @property
    def beamline(self) -> str:
        """Name of the beamline; raises as the server does if there is none."""
        return self._site.home if self.address is None else beamline_of(self.address, self._site.dialect)


Handler = Callable[[Site, Any, Caller], dict[str, Any]]
"""One endpoint: returns the reply without ``status``, or with it where it is not "ok"."""


class MessageBus:
    """Carry requests from the services to the writers, and status messages to whoever listens.

    Attributes
    ----------
    up : bool
        False: `connect` fails with AMQPConnectionError after 1 s.
    log : BoundedLog of Message
        What was published, oldest first; the oldest are forgotten in the end.
    start_first : bool
        Publish write_start before write_request, as the real services sometimes do.
    """

    def __init__(self, dialect: Dialect, delays: Delays, faults: Faults):
        self._dialect, self._delays, self._faults = dialect, delays, faults
        self.up, self.start_first = True, False
        self.log: BoundedLog[Message] = BoundedLog()
        self._listeners: list[Callable[[Message], None]] = []
        self._queues: dict[str, queue.Queue[Message]] = {}
        self._held: dict[str, Message] = {}
        self._lock = threading.Lock()

    def listen(self, listener: Callable[[Message], None]) -> None:
        """Call `listener` with every message from now on."""
        self._listeners.append(listener)

    def consume(self, name: str) -> queue.Queue[Message]:
        """Return a queue of requests; those for which nobody asked for one vanish."""
        return self._queues.setdefault(name, queue.Queue())

    @property
    def n_waiting(self) -> int:
        """Requests that the writers have not finished."""
        return sum(waiting.unfinished_tasks for waiting in self._queues.values())

    def connect(self) -> None:
        """Reach the message broker, as each call does before it sends; AMQPConnectionError if it is down."""
        if not self.up or self._faults.take("message_broker_down"):
            self._delays.wait(MESSAGE_BROKER_DOWN)
            raise AMQPConnectionError

    def send(self, routing_key: str, body: dict[str, Any]) -> None:
        """Publish a request and hand it to its writer."""
        text = json.dumps(body)
        request: Message = {
            "exchange": "request",
            "routing_key": routing_key,
            "correlation_id": str(uuid.uuid4()),
            "timestamp": time.time_ns() if self._dialect == "current" else None,
            "headers": None,
            "body": json.loads(text),
        }
        headers = {"action": "write_request", "source": "BrokerClient", "routing_key": routing_key}
        status = {**request, "exchange": "status", "headers": headers}
        self._publish(request, len(text))
        name = body["writer_type"] if routing_key == "bs.*" else routing_key
        writer = self._queues.get("epics" if name.startswith("epics_") else name)
        if self.start_first and writer is not None:
            with self._lock:
                self._held[request["correlation_id"]] = status
        else:
            self._publish(status)
        if writer is not None and not self._faults.take("writer_absent"):
            writer.put(request)

    def report(
        self, request: Message, action: str, source: str, message: str | None = None, *, file: bool = True
    ) -> None:
        """Publish a writer's status message about a request; writers of 2023 gave no correlation id."""
        headers: Message = {"action": action, "source": source, "routing_key": "*"}
        if file:
            headers["file"] = request["body"].get("output_file")
        headers["message"] = message
        status = {**request, "exchange": "status", "routing_key": "", "headers": headers}
        if self._dialect == "documented":
            status["correlation_id"] = None
        self._publish(status)
        with self._lock:
            held = self._held.pop(request["correlation_id"], None)
        if held is not None:
            self._publish(held)

    def _publish(self, message: Message, size: int = 0) -> None:
        """Send to whoever listens; status messages share the body of their request, which has the `size`."""
        self.log.append(message, size)
        for listener in self._listeners:
            try:
                listener(message)
            except Exception:
                logger.exception("a listener of status messages failed")

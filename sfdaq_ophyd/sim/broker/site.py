"""What the services, the writers and the faults of one simulated broker share; its message broker."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from ...wire.broker import Dialect
from ..facility import World
from ..faults import Faults
from ..http import BoundedLog
from .beamline import (
    MESSAGE_BROKER_DOWN,
    AMQPConnectionError,
    Delays,
    Stopped,
    Tree,
    Trigger,
    beamline_of,
)
from .hardware import Hardware, Table

logger = logging.getLogger(__name__)

Message = dict[str, Any]
"""Exchange, routing_key, correlation_id, timestamp, headers, body: what a listener of RabbitMQ sees."""


class LoggedRequest(NamedTuple):
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
        self.hardware, self.messages = Hardware(self.tree), Messages(dialect, delays, faults)
        self.requests: BoundedLog[LoggedRequest] = BoundedLog()
        self._triggers: dict[str, Trigger] = {}

    def trigger(self, beamline: str) -> Trigger:
        """Return a beamline's trigger."""
        return self._triggers.setdefault(beamline, Trigger(self.delays, self.clock))

    def sends_current(self, current: dict[str, Any], documented: dict[str, Any]) -> dict[str, Any]:
        """Choose the reply of the dialect."""
        return current if self.dialect == "current" else documented


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


class Messages:
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


class Worker:
    """One writer process: calls `handle` with one request of its queue at a time."""

    def __init__(self, site: Site, name: str, handle: Callable[[Message], None]):
        self._queue, self._stopped = site.messages.consume(name), site.delays.stopped
        self._handle = handle
        self._thread = threading.Thread(target=self._run, name=f"writer {name}", daemon=True)

    def start(self) -> None:
        """Take requests from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Wait until the present request is done or given up; the delays are stopped by then."""
        if self._thread.is_alive():
            self._queue.put({})
            self._thread.join(10)

    def _run(self) -> None:
        while (request := self._queue.get()) and not self._stopped.is_set():
            try:
                self._handle(request)
            except Stopped:
                return
            except Exception:
                logger.exception("writer failed: %s", request["body"].get("output_file"))
            finally:
                self._queue.task_done()

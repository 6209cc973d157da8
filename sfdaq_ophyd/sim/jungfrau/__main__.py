"""Serve a simulated Jungfrau: ``python -m sfdaq_ophyd.sim.jungfrau --name JF01T03V01``.

Prints ``READY`` and its addresses as JSON. With ``--control`` it also obeys commands on standard input.

Runs in a process of its own, so that neither a busy RunEngine delays the frames nor the frames the RunEngine.
Frames are rendered only for streams somebody listens to: one PUB per port, and the assembled stream.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from typing import Any

from ...starting import report_step, without_collection
from ..child import make_parser, on_signal, read_commands, reply, running_clock, say_ready

with without_collection(ours=__name__ == "__main__"):
    import zmq
    from zmq.utils.monitor import recv_monitor_message

    from ...errors import RequestError
    from ...limits import Limit
    from ..clock import LOOK, PulseClock
    from .model import AssembledModel, DetectorModel, JungfrauSettings, PortMessage
    from .scene import Scene

logger = logging.getLogger(__name__)

HIGH_WATER = 1000
"""Messages a module stream keeps per client before it drops, as slsReceiver."""

LIVE_HIGH_WATER = 10
"""The same of the assembled live stream."""

PATIENT_HIGH_WATER = 10
"""Messages any stream keeps per client before it waits, where the pulse clock is patient."""

LONGEST_TOPIC = 1024
"""Bytes that a client may subscribe to; the connection of one that sends more is cut."""

EVENTS = 100
"""Clients that come and go, at most, of which a stream is told before it sends the next message."""

PATIENCE = 60.0
"""s for which a patient stream waits for a client that takes nothing; then that one loses messages."""

_KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 60,
    zmq.TCP_KEEPALIVE_CNT: 10,
    zmq.TCP_KEEPALIVE_INTVL: 1,
}


class _Socket(ABC):
    """What both kinds share: never blocks; a patient one lets a slow client catch up, see `send`."""

    kind: int

    def __init__(self, context: zmq.Context, port: int, high_water: int, patient: bool):
        self._socket = context.socket(self.kind)
        self._socket.set(zmq.SNDHWM, min(high_water, PATIENT_HIGH_WATER) if patient else high_water)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.MAXMSGSIZE, LONGEST_TOPIC)
        for option, value in _KEEPALIVE.items():
            self._socket.set(option, value)
        self._prepare(patient)
        self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        self.endpoint = self._socket.get(zmq.LAST_ENDPOINT).decode()
        self._patient = patient
        self._waiting: Limit | None = None
        self._gave_up = False

    @property
    @abstractmethod
    def wanted(self) -> bool:
        """Whether a message would go to anybody."""

    def send(self, parts: list) -> bool:
        """Send, or lose it for a client that is too slow; False where a patient one waits: send it again."""
        if self._try(parts):
            self._waiting, self._gave_up = None, False
            return True
        if not self._patient or not self.wanted:
            return True
        self._waiting = self._waiting or Limit(PATIENCE)
        if not self._waiting.reached():
            return False
        if not self._gave_up:
            self._gave_up = True
            logger.warning("%s: a client took nothing for %g s and loses frames", self.endpoint, PATIENCE)
        self._lose(parts)
        return True

    @abstractmethod
    def _prepare(self, patient: bool) -> None:
        """Set what a kind needs before it binds."""

    def _try(self, parts: list) -> bool:
        try:
            self._socket.send_multipart(parts, zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return False
        return True

    def _lose(self, parts: list) -> None:
        """Send to those who take it."""
        self._try(parts)


class PubSocket(_Socket):
    """A PUB that knows whether anybody listens (XPUB looks the same from the other end)."""

    kind = zmq.XPUB

    @property
    def wanted(self) -> bool:
        """Whether any client is subscribed."""
        for _ in range(EVENTS):  # of each topic the first subscription and the last one's end
            if not self._socket.get(zmq.EVENTS) & zmq.POLLIN:
                break
            self._n_topics += {b"\0": -1, b"\1": 1}.get(self._socket.recv()[:1], 0)
        return self._n_topics > 0

    def _prepare(self, patient: bool) -> None:
        self._n_topics = 0
        self._socket.set(zmq.XPUB_NODROP, int(patient))

    def _lose(self, parts: list) -> None:
        self._socket.set(zmq.XPUB_NODROP, 0)
        self._try(parts)
        self._socket.set(zmq.XPUB_NODROP, 1)


class PushSocket(_Socket):
    """A PUSH that leaves out what nobody takes."""

    kind = zmq.PUSH

    @property
    def wanted(self) -> bool:
        """Whether a client is connected; of an impatient one, also whether it keeps up."""
        if not self._patient:
            return bool(self._socket.get(zmq.EVENTS) & zmq.POLLOUT)
        for _ in range(EVENTS):
            if not self._monitor.get(zmq.EVENTS) & zmq.POLLIN:
                break
            event = recv_monitor_message(self._monitor)
            change = self._clients.add if event["event"] == zmq.EVENT_ACCEPTED else self._clients.discard
            change(event["value"])
        return bool(self._clients)

    def _prepare(self, patient: bool) -> None:
        self._clients: set[int] = set()  # file descriptors
        if patient:
            self._monitor = self._socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)


QUIET = 4
"""Pulses from one look to the next while nobody listens: a core that sleeps is dear to wake."""

MAX_BEHIND = 50
"""Pulses that are made up for after a stall of a strict clock; more are left out."""


class Sender:
    """Send frames at their time, which the clock tells, and obey commands.

    Parameters
    ----------
    ports : iterable of int
        Ports of the module streams, the assembled stream and the live stream; 0 for free ones.
    """

    def __init__(
        self, clock: PulseClock, settings: JungfrauSettings, start_pulse_id: int, ports: Iterable[int]
    ):
        self._clock = clock
        self.scene = Scene(settings.detector_name, settings.seed, clock.view)
        self.detector = DetectorModel(self.scene, settings, start_pulse_id, clock.time_of)
        self.assembled = AssembledModel(self.detector)
        self._context, ports = zmq.Context(), iter(ports)
        patient, context = clock.patient, self._context
        self.modules = [PubSocket(context, next(ports), HIGH_WATER, patient) for _ in range(settings.n_ports)]
        self.streamvis = PubSocket(context, next(ports), HIGH_WATER, patient)
        self._live = PushSocket(context, next(ports), LIVE_HIGH_WATER, patient)
        self._outbox: list[tuple[_Socket, deque[tuple[float, list]]]] = [
            (socket, deque()) for socket in (*self.modules, self.streamvis, self._live)
        ]
        self._stuck = False  # a patient stream waits for its client
        self._heard = False  # somebody listened at the last look
        self._n_left_out = 0
        self._last = clock.now()

    def addresses(self) -> dict[str, Any]:
        """Return the endpoints of all streams."""
        return {
            "endpoints": [socket.endpoint for socket in self.modules],
            "assembled": self.streamvis.endpoint,
            "live": self._live.endpoint,
        }

    def run(self, commands: queue.Queue) -> None:
        """Send until a command is None."""
        with self._clock.follow("jungfrau") as follower:
            self._last = self._clock.now()
            while True:
                self._send_due()
                if not self._stuck:
                    follower.finished(self._last)
                try:
                    command = commands.get(timeout=self._idle())
                except queue.Empty:
                    continue
                if command is None:
                    return
                self._send_due()  # what came before it
                reply(partial(self.answer, command))

    def answer(self, command: dict[str, Any]) -> Any:
        """Obey one command."""
        match command:
            case {"do": "status"}:
                return self.status()
            case {"do": "configure", "changes": changes}:
                self.detector.settings = self.detector.settings.changed(**changes)
            case {"do": "start", "first_frame_number": number}:
                self.detector.start(self._clock.now(), number)
                self._last = self._clock.now()
            case {"do": "stop"}:
                self._post(self.detector.stop())
            case {"do": "force_stage", "stage": stage}:
                self.scene.forced_stage = stage
            case {"do": "fail", "what": what, "details": details}:
                self.detector.faults.add(what, details)
            case {"do": "clear_faults"}:
                self.detector.faults.clear()
            case _:
                raise RequestError("command", command, "a known one")

    def status(self) -> dict[str, Any]:
        """Say what is going on."""
        return {
            "running": self.detector.running,
            "frame_number": self.detector.frame_number,
            "pulse_id": self._last,
            "subscribed": [socket.wanted for socket in self.modules],
            "n_left_out": self._n_left_out,
        }

    def close(self) -> None:
        """Close all sockets at once."""
        self._context.destroy(linger=0)

    def _send_due(self) -> None:
        now = self._clock.now()
        if not self._clock.patient and now - self._last > MAX_BEHIND:
            self._n_left_out += now - self._last - MAX_BEHIND
            self._last = now - MAX_BEHIND
        self._flush()
        known = self._heard or not self._clock.running  # else what is not of this moment would come late
        self._heard = any(socket.wanted for socket, _ in self._outbox)
        while self._last < now and not self._stuck:
            self._last += 1
            self._take(self._last, known or self._last == now)
            self._flush()

    def _take(self, pulse_id: int, send: bool) -> None:
        if not self._clock.view(pulse_id).triggered:
            self.detector.miss(pulse_id)
            return
        if not (self.detector.take(pulse_id) and send):
            return
        *listening, whole, live = (socket.wanted for socket, _ in self._outbox)
        if any(listening):
            self._post([message for message in self.detector.messages() if listening[message.port]])
        if whole or live:
            header, pixels = self.assembled.image()
            settings = self.detector.settings
            for wanted, rate, (_, messages) in (
                (whole, settings.streamvis_rate, self._outbox[-2]),
                (live, settings.live_rate, self._outbox[-1]),
            ):
                if wanted:
                    messages.append((0.0, self.assembled.parts(header, pixels, rate)))

    def _post(self, messages: list[PortMessage]) -> None:
        now = time.monotonic()
        for message in messages:
            queued = self._outbox[message.port][1]
            due = now + message.delay
            queued.append((max(due, queued[-1][0]) if queued else due, message.parts))  # in order

    def _flush(self) -> None:
        """Send what is due, each stream in its order; note whether one waits for its client."""
        now, self._stuck = time.monotonic(), False
        for socket, queued in self._outbox:
            while queued and queued[0][0] <= now:
                if not socket.send(queued[0][1]):
                    self._stuck = True
                    break
                queued.popleft()

    def _idle(self) -> float:
        """Return seconds until something is due."""
        if self._stuck:
            return LOOK
        now = time.monotonic()
        due = [queued[0][0] - now for _, queued in self._outbox if queued]
        return max(0.0, min([self._clock.due_in(self._last + (1 if self._heard else QUIET)), *due]))


def main() -> None:
    """Parse the command line and serve until SIGINT, SIGTERM or, with --control, the end of input."""
    parser = make_parser("sfdaq_ophyd.sim.jungfrau", __doc__)
    parser.add_argument("--name", default="JF01T03V01", help="detector name")
    parser.add_argument("--settings", type=json.loads, default={}, help="fields of Settings, as JSON")
    parser.add_argument("--ports", default="", help="comma-separated: module streams, assembled, live")
    with running_clock(parser) as (options, clock):
        settings = JungfrauSettings(**{"detector_name": options.name, **options.settings})
        start = clock.start_pulse_id if options.start_pulse_id is None else options.start_pulse_id
        ports = [int(port) for port in options.ports.split(",") if port] or itertools.repeat(0)
        commands: queue.Queue = queue.Queue()
        on_signal(partial(commands.put, None))
        with closing(Sender(clock, settings, start, ports)) as sender:
            if options.control:
                report_step("rendering the scene")
            sender.scene.raw(0)  # before the first frame is due
            say_ready(json.dumps(sender.addresses()))
            if options.control:
                read_commands(commands)
            sender.run(commands)


if __name__ == "__main__":
    main()

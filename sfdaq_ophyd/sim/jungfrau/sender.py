"""Sockets and timing of the simulated Jungfrau: one PUB per port, the assembled stream, real time.

Runs in a process of its own, so that neither a busy RunEngine delays the frames nor the frames the RunEngine.
Frames are rendered only for streams somebody listens to.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import time
from collections.abc import Iterable
from typing import Any

import zmq

from ...errors import RequestError
from ..child import reply
from ..clock import PulseClock
from .assembled import AssembledModel
from .model import DetectorModel, Message
from .scene import Scene
from .settings import Settings

HIGH_WATER = 1000
"""Messages a module stream keeps per client before it drops, as slsReceiver."""

LIVE_HIGH_WATER = 10
"""The same of the assembled live stream."""

MAX_BEHIND = 50
"""Pulses that are made up for after a stall; more are left out."""

_KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 60,
    zmq.TCP_KEEPALIVE_CNT: 10,
    zmq.TCP_KEEPALIVE_INTVL: 1,
}


class PubSocket:
    """A PUB that knows whether anybody listens (XPUB looks the same from the other end)."""

    def __init__(self, context: zmq.Context, port: int, high_water: int = HIGH_WATER):
        self._socket = context.socket(zmq.XPUB)
        self._socket.set(zmq.SNDHWM, high_water)
        self._socket.set(zmq.LINGER, 0)
        for option, value in _KEEPALIVE.items():
            self._socket.set(option, value)
        self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        self.endpoint = self._socket.get(zmq.LAST_ENDPOINT).decode()
        self._topics: set[bytes] = set()

    @property
    def subscribed(self) -> bool:
        """Whether any client is subscribed."""
        while self._socket.poll(0):
            message = self._socket.recv()
            (self._topics.add if message[:1] == b"\1" else self._topics.discard)(message[1:])
        return bool(self._topics)

    def send(self, parts: list) -> None:
        """Send; a client that is too slow loses it."""
        self._socket.send_multipart(parts, copy=False)

    def close(self) -> None:
        """Close at once."""
        self._socket.close(0)


class Sender:
    """Send frames at their time and obey commands.

    Parameters
    ----------
    clock : PulseClock
        When frames are due.
    settings : Settings
        The detector.
    start_pulse_id : int
        Frame numbers count from here.
    ports : iterable of int
        Ports of the module streams, the assembled stream and the live stream; 0 for free ones.
    """

    def __init__(self, clock: PulseClock, settings: Settings, start_pulse_id: int, ports: Iterable[int]):
        self._clock = clock
        self.scene = Scene(settings.detector_name, settings.seed)
        self.detector = DetectorModel(self.scene, settings, start_pulse_id)
        self.assembled = AssembledModel(self.detector)
        self._beam = True
        self._context, ports = zmq.Context(), iter(ports)
        self.modules = [PubSocket(self._context, next(ports)) for _ in range(settings.n_ports)]
        self.streamvis = PubSocket(self._context, next(ports))
        self._live = self._context.socket(zmq.PUSH)
        self._live.set(zmq.SNDHWM, LIVE_HIGH_WATER)
        self._live.set(zmq.LINGER, 0)
        self._live.bind(f"tcp://127.0.0.1:{next(ports) or '*'}")
        self._waiting: list[tuple[float, int, Message]] = []
        self._order = itertools.count()
        self._due = [0.0] * settings.n_ports
        self._n_sent, self._n_left_out, self._worst_delay = 0, 0, 0.0
        self.scene.raw(0)  # rendered before the first frame is due
        self._last = clock.now()

    def addresses(self) -> dict[str, Any]:
        """Return the endpoints of all streams."""
        return {
            "endpoints": [socket.endpoint for socket in self.modules],
            "assembled": self.streamvis.endpoint,
            "live": self._live.get(zmq.LAST_ENDPOINT).decode(),
        }

    def run(self, commands: queue.Queue) -> None:
        """Send until a command is None."""
        while True:
            self._send_due()
            try:
                command = commands.get(timeout=self._idle())
            except queue.Empty:
                continue
            if command is None:
                return
            reply(lambda command=command: self.answer(command))

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
            case {"do": "scene", "forced_stage": stage, "beam": beam}:
                self.scene.forced_stage, self._beam = stage, beam
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
            "subscribed": [socket.subscribed for socket in self.modules],
            "assembled_subscribed": self.streamvis.subscribed,
            "n_sent": self._n_sent,
            "n_left_out": self._n_left_out,
            "worst_delay": self._worst_delay,
        }

    def close(self) -> None:
        """Close all sockets at once."""
        self._context.destroy(linger=0)

    def _send_due(self) -> None:
        now = self._clock.now()
        if now - self._last > MAX_BEHIND:
            self._n_left_out += now - self._last - MAX_BEHIND
            self._last = now - MAX_BEHIND
        self.scene.beam = self._beam and self._clock.light
        for pulse_id in range(self._last + 1, now + 1):
            self._last = pulse_id
            self._take(pulse_id)
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            message = heapq.heappop(self._waiting)[2]
            self.modules[message.port].send(message.parts)

    def _take(self, pulse_id: int) -> None:
        if not self.detector.take(pulse_id):
            return
        self._n_sent += 1
        if self._clock.running:
            self._worst_delay = max(self._worst_delay, time.time() - self._clock.time_of(pulse_id))
        listening = [socket.subscribed for socket in self.modules]
        if any(listening):
            self._post([message for message in self.detector.messages() if listening[message.port]])
        whole, live = self.streamvis.subscribed, bool(self._live.poll(0, zmq.POLLOUT))
        if whole or live:
            header, pixels = self.assembled.image()
            settings = self.detector.settings
            if whole:
                self.streamvis.send(self.assembled.parts(header, pixels, settings.streamvis_rate))
            if live:
                parts = self.assembled.parts(header, pixels, settings.live_rate)
                self._live.send_multipart(parts, zmq.DONTWAIT, copy=False)

    def _post(self, messages: list[Message]) -> None:
        now = time.monotonic()
        for message in messages:
            due = max(now + message.delay, self._due[message.port])  # a port keeps its order
            self._due[message.port] = due
            if due > now or self._waiting:
                heapq.heappush(self._waiting, (due, next(self._order), message))
            else:
                self.modules[message.port].send(message.parts)

    def _idle(self) -> float:
        """Return seconds until something is due, at most 5 ms."""
        due = self._clock.time_of(self._last + 1) - time.time() if self._clock.running else 0.005
        if self._waiting:
            due = min(due, self._waiting[0][0] - time.monotonic())
        return min(max(due, 0.0), 0.005)

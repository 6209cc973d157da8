"""Sockets and timing of the simulated Jungfrau: one PUB per port, the assembled stream, real time.

Runs in a process of its own, so that neither a busy RunEngine delays the frames nor the frames the RunEngine.
Frames are rendered only for streams somebody listens to.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import zmq

from ...errors import RequestError
from ..child import reply
from ..clock import LOOK, PulseClock
from .assembled import AssembledModel
from .model import DetectorModel, Message
from .scene import Scene
from .settings import Settings
from .sockets import HIGH_WATER, LIVE_HIGH_WATER, PubSocket, PushSocket

MAX_BEHIND = 50
"""Pulses that are made up for after a stall of a strict clock; more are left out."""


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
        self.scene = Scene(settings.detector_name, settings.seed, clock.view)
        self.detector = DetectorModel(self.scene, settings, start_pulse_id, clock.time_of)
        self.assembled = AssembledModel(self.detector)
        self._context, ports = zmq.Context(), iter(ports)
        patient, context = clock.patient, self._context
        self.modules = [PubSocket(context, next(ports), HIGH_WATER, patient) for _ in range(settings.n_ports)]
        self.streamvis = PubSocket(context, next(ports), HIGH_WATER, patient)
        self._live = PushSocket(context, next(ports), LIVE_HIGH_WATER, patient)
        self._outbox: list[tuple[PubSocket | PushSocket, deque[tuple[float, list]]]] = [
            (socket, deque()) for socket in (*self.modules, self.streamvis, self._live)
        ]
        self._stuck = False  # a patient stream waits for its client
        self._n_sent, self._n_left_out, self._worst_delay = 0, 0, 0.0
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
                self.scene.forced_stage, self.scene.beam = stage, beam
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
            "assembled_subscribed": self.streamvis.wanted,
            "n_sent": self._n_sent,
            "n_left_out": self._n_left_out,
            "worst_delay": self._worst_delay,
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
        while self._last < now and not self._stuck:
            self._last += 1
            self._take(self._last)
            self._flush()

    def _take(self, pulse_id: int) -> None:
        if not self.detector.take(pulse_id):
            return
        self._n_sent += 1
        if self._clock.running:
            self._worst_delay = max(self._worst_delay, time.time() - self._clock.time_of(pulse_id))
        listening = [socket.wanted for socket in self.modules]
        if any(listening):
            self._post([message for message in self.detector.messages() if listening[message.port]])
        whole, live = self.streamvis.wanted, self._live.wanted
        if whole or live:
            header, pixels = self.assembled.image()
            settings = self.detector.settings
            for wanted, rate, (_, messages) in (
                (whole, settings.streamvis_rate, self._outbox[-2]),
                (live, settings.live_rate, self._outbox[-1]),
            ):
                if wanted:
                    messages.append((0.0, self.assembled.parts(header, pixels, rate)))

    def _post(self, messages: list[Message]) -> None:
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
        return max(0.0, min([self._clock.due_in(self._last + 1), *due]))

"""Sockets of the simulated Jungfrau: lossy as the real ones, or patient with the pulse clock."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod

import zmq
from zmq.utils.monitor import recv_monitor_message

from ...limits import Limit

logger = logging.getLogger(__name__)

HIGH_WATER = 1000
"""Messages a module stream keeps per client before it drops, as slsReceiver."""

LIVE_HIGH_WATER = 10
"""The same of the assembled live stream."""

PATIENT_HIGH_WATER = 10
"""Messages any stream keeps per client before it waits, where the pulse clock is patient."""

LONGEST_TOPIC = 1024
"""Bytes that a client may subscribe to; the connection of one that sends more is cut."""

PATIENCE = 60.0
"""s for which a patient stream waits for a client that takes nothing; then that one loses messages."""

_KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 60,
    zmq.TCP_KEEPALIVE_CNT: 10,
    zmq.TCP_KEEPALIVE_INTVL: 1,
}


class _Socket(ABC):
    """What both kinds share: never blocks, and knows how to be patient.

    Parameters
    ----------
    context : zmq.Context
    port : int
        0 for a free one.
    high_water : int
        Messages kept per client.
    patient : bool
        Wait for a client that is too slow (see `send`), and keep less for it.
    """

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
        """Send, and lose it for a client that is too slow.

        Returns
        -------
        bool
            False where a patient socket waits for a client: the same message is to be sent again later.
        """
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
        while self._socket.poll(0):  # of each topic the first subscription and the last one's end
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
            return bool(self._socket.poll(0, zmq.POLLOUT))
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            change = self._clients.add if event["event"] == zmq.EVENT_ACCEPTED else self._clients.discard
            change(event["value"])
        return bool(self._clients)

    def _prepare(self, patient: bool) -> None:
        self._clients: set[int] = set()  # file descriptors
        if patient:
            self._monitor = self._socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)

"""Listen to the status exchange of the DAQ's RabbitMQ: an optional, faster source of progress."""

from __future__ import annotations

import logging
import threading

from ..errors import RequestError, WireError, require, shown_url
from ..wire.broker_status import EXCHANGE, StatusBoard, read_status
from ._listener import Listener

logger = logging.getLogger(__name__)

RETRY = 2.0
"""s between attempts to connect."""

HEARTBEAT = 30
"""s: a peer that is silent for twice as long is taken for dead."""

MAX_BODY = 4 * 2**20
"""Longer messages are passed over, bytes."""


class StatusListener(Listener):
    """Follow announced files by what the writers say of them.

    Passive: declares the exchange as the broker does, and a queue of its own that goes with the connection.
    Connects again when the connection is lost, for whatever reason; what was said meanwhile is lost, so look
    at the files as well.
    Needs the extra ``rabbitmq`` (pika).

    Parameters
    ----------
    url : str
        E.g. ``amqp://sf-daq:5672``, with ``user:password@`` where needed.

    Attributes
    ----------
    url : str
        Without user and password.
    board : StatusBoard
        ``board.watch(retrieval.files)``, ``board.state(file)``.
    silent_since : float or None
        Since when nothing can be heard, s since the epoch; None while connected.

    Examples
    --------
    >>> listener = StatusListener("amqp://sf-daq:5672")
    >>> listener.connected
    False
    """

    def __init__(self, url: str):
        if not isinstance(url, str) or not url.startswith(("amqp://", "amqps://")):
            raise RequestError("url", shown_url(url), "an address like amqp://host:5672")
        super().__init__()
        self.url, self._address = shown_url(url), url
        self.board = StatusBoard()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def connected(self) -> bool:
        """Whether messages would arrive now."""
        return self._hears.is_set()

    def start(self, timeout: float | None = None) -> bool:
        """Listen from now on; wait up to `timeout` s until connected, and return whether it is.

        Parameters
        ----------
        timeout : float, optional
            Longest wait, s. None or 0 returns at once; the connection then comes up in the background.

        Returns
        -------
        bool
            Whether messages would arrive now. False is no failure: it goes on trying until `close`.

        Raises
        ------
        ExtraMissing
            pika is not installed; the extra ``rabbitmq`` brings it.
        RequestError
            The address has the right scheme, but is none that pika can read.

        Notes
        -----
        See wire reference sf-daq-broker, section 11.
        """
        if self._thread is None:
            pika = _import_pika()
            try:
                parameters = pika.URLParameters(self._address)
            except Exception:  # its text may show the password
                raise RequestError("url", self.url, "an address like amqp://host:5672") from None
            if getattr(parameters, "heartbeat", None) is None:
                parameters.heartbeat = HEARTBEAT
            parameters.socket_timeout = parameters.blocked_connection_timeout = 5
            parameters.connection_attempts = 1
            self._stop.clear()
            self._fell_silent("not connected yet")
            thread = threading.Thread(
                target=self._run, args=(pika, parameters), name="broker status", daemon=True
            )
            thread.start()
            self._thread = thread
        return self._hears.wait(timeout) if timeout else self.connected

    def close(self) -> None:
        """Stop listening. Safe twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None
        self._fell_silent("closed")

    def __enter__(self) -> StatusListener:
        self.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def _run(self, pika, parameters) -> None:
        while not self._stop.is_set():
            try:
                with pika.BlockingConnection(parameters) as connection:
                    self._listen(connection.channel())
                why: str | Exception = "the server ended the connection"
            except Exception as exc:  # a peer may break pika in any way: the thread goes on
                why = exc
            if not self._stop.is_set():
                self._fell_silent(why)
                logger.warning("status exchange: %s:%s: %s", parameters.host, parameters.port, self._why)
            self._stop.wait(RETRY)

    def _listen(self, channel) -> None:
        channel.exchange_declare(EXCHANGE, exchange_type="fanout")
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, EXCHANGE)
        for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=0.1):
            self.silent_since = None
            self._hears.set()
            if method is not None:
                self._take(properties, body)
            if self._stop.is_set():
                channel.cancel()
                return

    def _take(self, properties, body: bytes) -> None:
        if len(body) > MAX_BODY:
            logger.warning("status message of %d bytes passed over", len(body))
            return
        try:
            self.board.receive(read_status(properties.headers, body, properties.correlation_id))
        except WireError as exc:
            logger.warning("%s", exc)


def _import_pika():
    require("rabbitmq", "the status exchange", "pika")
    import pika.exceptions

    return pika

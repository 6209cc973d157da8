"""Publish messages on a real RabbitMQ, as the DAQ does (wire reference sf-daq-broker, section 11)."""

from __future__ import annotations

import json
import logging
import queue
import threading

from ...errors import require
from .messages import Message, Messages

logger = logging.getLogger(__name__)

EXCHANGES = {"request": "topic", "status": "fanout"}


class AmqpPublisher:
    """Forward every message to the exchanges ``request`` and ``status``. Needs pika.

    Parameters
    ----------
    url : str
        E.g. ``amqp://127.0.0.1:5672``.
    messages : Messages
    """

    def __init__(self, url: str, messages: Messages):
        require("rabbitmq", "the simulated broker's status exchange", "pika")
        import pika

        self._pika, self._url = pika, url
        self._queue: queue.Queue[Message | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="AMQP publisher", daemon=True)
        messages.listen(self._queue.put)

    def start(self) -> None:
        """Connect and publish; an address where nobody is, is an error at once."""
        self._connection = self._pika.BlockingConnection(self._pika.URLParameters(self._url))
        self._channel = self._connection.channel()
        for name, kind in EXCHANGES.items():
            self._channel.exchange_declare(name, exchange_type=kind)
        self._thread.start()

    def stop(self) -> None:
        """Publish what is left and disconnect. Safe twice."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        try:
            while True:
                try:
                    message = self._queue.get(timeout=5)
                except queue.Empty:
                    self._connection.process_data_events()  # heartbeats
                    continue
                if message is None:
                    break
                self._publish(message)
            self._connection.close()
        except self._pika.exceptions.AMQPError:
            logger.exception("the message broker went away")

    def _publish(self, message: Message) -> None:
        properties = self._pika.BasicProperties(
            correlation_id=message["correlation_id"],
            timestamp=message["timestamp"],
            headers=message["headers"],
        )
        self._channel.basic_publish(
            message["exchange"], message["routing_key"], json.dumps(message["body"]), properties
        )

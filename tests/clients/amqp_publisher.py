"""Publish a simulated broker's messages on a real RabbitMQ (wire reference sf-daq-broker, section 11)."""

import json
import queue
import threading

import pika

EXCHANGES = {"request": "topic", "status": "fanout"}


class AmqpPublisher:
    """Forward every message of a simulated broker to the exchanges ``request`` and ``status``."""

    def __init__(self, url: str, broker):
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        for name, kind in EXCHANGES.items():
            self._channel.exchange_declare(name, exchange_type=kind)
        self._queue: queue.Queue = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="AMQP publisher", daemon=True)
        self._thread.start()
        broker.on_message(self._queue.put)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._queue.put(None)
        self._thread.join(10)

    def _run(self):
        while True:
            try:
                message = self._queue.get(timeout=5)
            except queue.Empty:
                self._connection.process_data_events()  # heartbeats
                continue
            if message is None:
                break
            about = {name: message[name] for name in ("correlation_id", "timestamp", "headers")}
            self._channel.basic_publish(
                message["exchange"],
                message["routing_key"],
                json.dumps(message["body"]),
                pika.BasicProperties(**about),
            )
        self._connection.close()

"""Send every document to whoever listens: 0MQ as bluesky's own tools speak it, or Kafka. Never pickled."""

from __future__ import annotations

import atexit
import json
import logging
from collections.abc import Callable
from typing import Any

from ..catalog.journal import plain
from ..errors import require
from .config import PublishConfig

logger = logging.getLogger(__name__)

PATIENCE_MS = 3000
"""How long a publisher waits at its opening for somebody who listens."""

KAFKA_PATIENCE_MS = 30_000
"""How long a message waits for a Kafka broker."""


def publisher(config: PublishConfig) -> Publisher:
    """Open one of the blocks below ``publish``.

    Raises
    ------
    ExtraMissing
        For Kafka, or for msgpack.
    """
    pack: Callable[[Any], bytes] = _as_json
    if config.format == "msgpack":
        require("publish", "documents as msgpack", "msgpack")
        pack = _as_msgpack
    if config.zmq:
        return Publisher(config.zmq, *_zmq(config, pack))
    require("kafka", "documents to Kafka", "bluesky_kafka")
    return Publisher(f"{config.kafka}, topic {config.topic}", *_kafka(config, pack))


class Publisher:
    """Callback for documents; what cannot be sent is logged, once until it goes on, and costs no run.

    Parameters
    ----------
    where : str
        Shown to people.
    send : callable
        Takes the name and the document.
    end : callable
        Called at the end.
    """

    def __init__(self, where: str, send: Callable[[str, dict], None], end: Callable[[], None]):
        self.where, self._send, self._end, self._fails = where, send, end, False
        atexit.register(self.close)

    def __call__(self, name: str, doc: dict) -> None:
        """Send one document."""
        try:
            self._send(name, doc)
            self._fails = False
        except Exception as exc:  # of 0MQ, Kafka, serializers
            if not self._fails:
                logger.error("a %s document cannot be sent to %s: %s", name, self.where, exc)
            self._fails = True

    def close(self) -> None:
        """Close the connection. Safe twice."""
        atexit.unregister(self.close)
        end, self._end = self._end, lambda: None
        end()


def _zmq(config: PublishConfig, pack):
    """Connect to a ``bluesky-0MQ-proxy``; wait for its subscription, or the first documents would be lost."""
    import zmq

    address = config.zmq if "://" in config.zmq else f"tcp://{config.zmq}"
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)  # as PUB, and tells who subscribes
    socket.linger = 1000
    socket.connect(address)
    if not socket.poll(PATIENCE_MS):
        logger.warning("nobody listens at %s yet: documents are lost until somebody does", address)
    prefix = config.prefix.encode()

    def send(name: str, doc: dict) -> None:
        while socket.poll(0):
            socket.recv()  # a subscription
        socket.send(b" ".join([prefix, name.encode(), pack(doc)]))

    return send, socket.close


def _kafka(config: PublishConfig, pack):
    from bluesky_kafka import Publisher as KafkaPublisher

    # At the end, messages that no broker took wait for it no longer than this.
    lasting = {"message.timeout.ms": KAFKA_PATIENCE_MS}
    made = KafkaPublisher(config.topic, config.kafka, key="", serializer=pack, producer_config=lasting)
    return made, made.flush


def _as_json(value: Any) -> bytes:
    return json.dumps(value, default=plain).encode()


def _as_msgpack(value: Any) -> bytes:
    import msgpack

    return msgpack.packb(value, default=plain)

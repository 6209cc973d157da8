"""Where documents go: the session's catalog, opened at the first use, and who listens by 0MQ or Kafka."""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import ConfigError, require
from .config import PublishConfig, SfdaqConfig

logger = logging.getLogger(__name__)


class Lazy:
    """Stand in for an object until someone needs it.

    Only `attributes` make it: code that looks an unknown object over, as the queue server does, does not.
    """

    def __init__(self, make: Callable[[], Any], what: str, attributes: Iterable[str]):
        self._make, self._what = make, what
        self._attributes = frozenset(attributes)
        self._lock = threading.RLock()
        self._made: Any = None

    def wake(self) -> Any:
        """Make the object now, if it was not; return it."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._attributes:
            raise AttributeError(f"{self._what} has no attribute {name!r}")
        return getattr(self.wake(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make it, and call it."""
        return self.wake()(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self.wake()[key]

    def __iter__(self):
        return iter(self.wake())

    def __len__(self) -> int:
        return len(self.wake())

    def __contains__(self, item: object) -> bool:
        return item in self.wake()

    def __dir__(self) -> list[str]:
        return sorted(self._attributes)

    def __repr__(self) -> str:
        return f"<{self._what}, opened at its first use>" if self._made is None else repr(self._made)


_PUBLIC = (
    *("client", "close", "databroker", "directory", "extend", "flush", "replay", "runs_at", "server"),
    *("uri", "waiting"),
)


def lazy_catalog(config: SfdaqConfig) -> Lazy:
    """Return the catalog of the file, not opened yet: a callback for documents, and ``catalog[-1]``."""
    block = config.catalog

    def make():
        from ..catalog import embedded_catalog, remote_catalog

        if not block.uri:
            return embedded_catalog(config.directory / block.embedded, start_timeout=block.start_timeout)
        return remote_catalog(block.uri, config.directory / block.documents, api_key=api_key(config))

    where = f"at {block.uri}" if block.uri else f"in {config.directory / block.embedded}"
    return Lazy(make, f"catalog {where}", _PUBLIC)


def api_key(config: SfdaqConfig) -> str:
    """Return the key for the catalog at ``catalog.uri``.

    Raises
    ------
    ConfigError
        Its file or environment variable is not there, or empty, or holds something else than a key.
    """
    block = config.catalog
    if block.api_key_file is None:
        key = os.environ.get(block.api_key_variable, "").strip()
        wanted = f"set the environment variable {block.api_key_variable} to its API key"
    else:
        path = config.directory / block.api_key_file
        wanted = f"put its API key into {path}"
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"catalog {block.uri}: {wanted} ({exc})") from exc
    if not key:
        raise ConfigError(f"catalog {block.uri}: {wanted}")
    if (
        not (key.isascii() and key.isprintable()) or " " in key
    ):  # a header takes nothing else, and would show it
        raise ConfigError(f"catalog {block.uri}: {wanted}: one word of ASCII characters, and nothing else")
    return key


PATIENCE_MS = 3000
"""How long a publisher waits at its opening for somebody who listens."""

SUBSCRIPTIONS = 100
"""Subscriptions, and ends of some, that are taken in before a document is sent; the others wait."""

KAFKA_PATIENCE_MS = 30_000
"""How long a message waits for a Kafka broker."""


def lazy_publishers(config: SfdaqConfig) -> list[Lazy]:
    """Return what the blocks below ``publish`` name, not opened yet: callbacks for documents."""
    return [
        Lazy(functools.partial(publisher, block), f"documents to {block.zmq or block.kafka}", ("close",))
        for block in config.publish
    ]


def publisher(config: PublishConfig) -> Publisher:
    """Open one of the blocks below ``publish``.

    Raises
    ------
    ExtraMissing
        For Kafka, or for msgpack.
    """
    from ..catalog.journal import plain  # imports much

    pack: Callable[[Any], bytes] = functools.partial(_as_json, default=plain)
    if config.format == "msgpack":
        require("publish", "documents as msgpack", "msgpack")
        import msgpack

        pack = functools.partial(msgpack.packb, default=plain)
    if config.zmq:
        return Publisher(config.zmq, *_zmq(config, pack))
    require("kafka", "documents to Kafka", "bluesky_kafka")
    return Publisher(f"{config.kafka}, topic {config.topic}", *_kafka(config, pack))


class Publisher:
    """Callback for documents; what cannot be sent is logged, once until it goes on, and costs no run."""

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
        for _ in range(SUBSCRIPTIONS):
            if not socket.poll(0):
                break
            socket.recv()
        socket.send(b" ".join([prefix, name.encode(), pack(doc)]))

    return send, socket.close


def _kafka(config: PublishConfig, pack):
    from bluesky_kafka import Publisher as KafkaPublisher

    # At the end, messages that no broker took wait for it no longer than this.
    lasting = {"message.timeout.ms": KAFKA_PATIENCE_MS}
    made = KafkaPublisher(config.topic, config.kafka, key="", serializer=pack, producer_config=lasting)
    return made, made.flush


def _as_json(value: Any, default: Callable[[object], Any]) -> bytes:
    return json.dumps(value, default=default).encode()

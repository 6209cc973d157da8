"""The DAQ's Redis as the service uses it: streams of one field, patience with an absent server."""

from __future__ import annotations

import json

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from .timing import Timing

STATUS, CONFIG, LOG, STAT = "daq:status", "daq:config", "daq:log", "daq:stat"
ATTEMPTS = 10


class Store:
    """Streams on one Redis server. Nothing is ever trimmed unless `maxlen` says so.

    Parameters
    ----------
    url : str
    timing : Timing
        How long an absent server is tried again.
    maxlen : int, optional
        Entries kept per stream; the real service keeps all.

    Raises
    ------
    redis.RedisError
        From every method; its text is what the service replies.
    """

    def __init__(self, url: str, timing: Timing, maxlen: int | None = None):
        self._maxlen = maxlen
        backoff = ConstantBackoff(timing.redis_patience / ATTEMPTS)
        self.redis = redis.Redis.from_url(
            url, protocol=2, socket_connect_timeout=2, socket_timeout=5, retry=Retry(backoff, ATTEMPTS)
        )

    def add(self, key: str, content: dict) -> str:
        """Append a JSON object; return its id."""
        return self.redis.xadd(key, {"json": json.dumps(content)}, maxlen=self._maxlen).decode()

    def newest(self, key: str, count: int = 1) -> list[tuple[str, dict]]:
        """Return the newest entries, newest first."""
        return [(i.decode(), json.loads(f[b"json"])) for i, f in self.redis.xrevrange(key, count=count)]

    def entry(self, key: str, entry_id: str) -> dict | None:
        """Return one entry; None where there is none under that id."""
        found = self.redis.xrange(key, entry_id, entry_id)
        return json.loads(found[0][1][b"json"]) if found else None

    def report(self, config_id: str, server: str, message: str) -> None:
        """Append a server's deployment report."""
        self.redis.xadd(f"{CONFIG}:{config_id}", {"server_name": server, "message": message})

    def reports(self, config_id: str) -> list[tuple[str, str, str]]:
        """Return (id, server, message) of all deployment reports, oldest first."""
        entries = self.redis.xrange(f"{CONFIG}:{config_id}")
        return [(i.decode(), f[b"server_name"].decode(), f[b"message"].decode()) for i, f in entries]

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

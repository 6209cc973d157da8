"""The standard DAQ's Redis streams, followed in a thread: a hint beside REST, never the truth.

The service publishes nothing while idle or waiting for images, doubles entries, replays old ones, and never
says UNKNOWN (wire reference std-daq, section 8). Doubled and replayed entries are left out here and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import RequestError, WireError, require, shown_url
from ..wire.json_text import load_json
from ._listener import Listener
from .redis_client import redis_client

logger = logging.getLogger(__name__)


KEYS = {"status": "daq:status", "config": "daq:config", "log": "daq:log", "stat": "daq:stat"}
"""What to follow and its key in the DAQ's Redis."""

MAX_MESSAGE = 2**20
"""Longest JSON text accepted, bytes."""

AHEAD = 86_400.0
"""s by which a time of the DAQ's clock may be ahead of its Redis; what is more, is no time."""


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry of a stream.

    Attributes
    ----------
    stream : str
        "status", "config", "log" or "stat".
    entry_id : str
        Redis id: milliseconds since the epoch, a dash, a counter. That of a config is its config_id.
    content : dict
        The JSON object.
    """

    stream: str
    entry_id: str
    content: dict


class StdDaqRedis(Listener):
    """Follow streams of one DAQ; survives restarts of its Redis.

    Parameters
    ----------
    url : str
        ``redis://host:6379``.
    streams : iterable of str
        Which of "status", "config", "log", "stat".
    block : float
        Longest wait for news in one request, s: `close` may take that long.
    timeout : float
        Limit of a connection or an answer, s.

    Attributes
    ----------
    counts : Counter
        How many messages were "delivered", and left out as "doubled", "replayed", "invalid".
    silent_since : float or None
        Since when nothing can be heard, s since the epoch; None while connected.

    Examples
    --------
    >>> with StdDaqRedis("redis://localhost:6379", ["status"]) as follower:  # doctest: +SKIP
    ...     follower.subscribe("status", lambda message: print(message.content["state"]))
    ...     time.sleep(10)
    """

    def __init__(self, url: str, streams=tuple(KEYS), *, block: float = 0.5, timeout: float = 2.0):
        require("redis", "following a standard DAQ's Redis", "redis")
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        super().__init__()
        names = [streams] if isinstance(streams, str) else list(streams)
        for name in names:
            if name not in KEYS:
                raise RequestError("streams", name, f"names out of {', '.join(KEYS)}")
        retry = Retry(NoBackoff(), 0)
        self._redis = redis_client(url, answer=timeout + block, connect=timeout, retry=retry)
        self.url = shown_url(url)
        self._names = {KEYS[name].encode(): name for name in names}
        self._block_ms = max(1, int(block * 1000))
        self._join = block + timeout + 1
        self._ids: dict[bytes, bytes] = {}
        self._previous = b""
        self._newest_time = 0.0
        self._callbacks: dict[str, list[Callable[[StreamEntry], None]]] = {name: [] for name in names}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.counts: Counter[str] = Counter()

    def start(self) -> StdDaqRedis:
        """Begin to follow, from the newest entry on. Returns at once, also where no Redis answers."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"follow {self.url}", daemon=True)
            thread.start()
            self._thread = thread
        return self

    def wait_connected(self, timeout: float) -> bool:
        """Wait until entries to come will be seen; call it before the start whose entries matter.

        Parameters
        ----------
        timeout : float
            Longest wait, s.

        Returns
        -------
        bool
            False where Redis was not reached in time, or the follower was not started; it goes on trying.
        """
        return self._hears.wait(timeout)

    def subscribe(self, stream: str, callback: Callable[[StreamEntry], None]) -> None:
        """Have `callback` called with each message of a stream that comes from now on.

        Parameters
        ----------
        stream : str
            One of those that are followed.
        callback : callable
            Given a `StreamEntry`, in the follower's thread, for as long as that runs. What it raises is
            logged and stops nothing.

        Raises
        ------
        KeyError
            The stream is not followed.

        Notes
        -----
        What the entries hold is in wire reference std-daq, section 8.
        """
        self._callbacks[stream].append(callback)

    def close(self) -> None:
        """Stop following. Safe twice."""
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._join)
        self._fell_silent("closed")
        self._redis.close()

    __enter__ = start

    def __exit__(self, *exc_info):
        self.close()

    # ---- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.1
        while not self._closing.is_set():
            try:
                self._find_ends()
                self._hears.set()
                while not self._closing.is_set():
                    self._read()
                    if not self._closing.is_set():
                        self.silent_since, pause = None, 0.1
            except Exception as exc:  # a peer may break the library in any way: the thread goes on
                self._fell_silent(exc)
                logger.warning("%s: %s; next try in %.1f s", self.url, self._why, pause)
                self._closing.wait(pause)
                pause = min(2 * pause, 2.0)

    def _find_ends(self) -> None:
        """Take the newest ids; after a restart keep ours, unless the stream began anew."""
        for key, name in self._names.items():
            newest = self._redis.xrevrange(key, count=1)
            end = _as_bytes(newest[0][0]) if newest else b"0-0"
            if key not in self._ids:
                self._ids[key] = end
                if newest:
                    self._parse(name, *newest[0])  # what repeats it is left out
            elif _order(end) < _order(self._ids[key]):
                self._ids[key] = b"0-0"

    def _read(self) -> None:
        reply = self._redis.xread(dict(self._ids.items()), count=500, block=self._block_ms)
        pairs = reply.items() if isinstance(reply, Mapping) else reply or ()
        for key, entries in pairs:
            key = _as_bytes(key)
            if entries and isinstance(entries[0], list):  # newer clients wrap the entries once more
                entries = [entry for part in entries for entry in part]
            for entry_id, fields in entries:
                self._ids[key] = _as_bytes(entry_id)
                self._deliver(self._names[key], entry_id, fields)

    def _deliver(self, name: str, entry_id, fields) -> None:
        message = self._parse(name, entry_id, fields)
        if message is None:
            return
        self.counts["delivered"] += 1
        for callback in tuple(self._callbacks[name]):
            try:
                callback(message)
            except Exception:
                logger.exception("callback of stream %s failed", name)

    def _parse(self, name: str, entry_id, fields) -> StreamEntry | None:
        """Return the message of an entry, None if it has no new one.

        Whatever is wrong with it, the next one is looked at.
        """
        try:
            raw = next((_as_bytes(v) for k, v in (fields or {}).items() if _as_bytes(k) == b"json"), b"")
            content = load_json(raw) if len(raw) <= MAX_MESSAGE else None
            if not isinstance(content, dict):
                raise WireError(f"no JSON object of {MAX_MESSAGE} bytes at the most")
            if name == "status":
                if self._previous == raw:
                    self.counts["doubled"] += 1
                    return None
                if self._is_replay(content, _order(_as_bytes(entry_id))[0] / 1000):
                    self.counts["replayed"] += 1
                    return None
                self._previous = raw
            return StreamEntry(name, _as_bytes(entry_id).decode(), content)
        except Exception:
            self.counts["invalid"] += 1
            logger.debug("%s: entry %s of stream %s", self.url, entry_id, name, exc_info=True)
            return None

    def _is_replay(self, status: dict, now: float) -> bool:
        """Tell a status of an acquisition that ended before the newest one began; times to come count not."""
        acquisition = status.get("acquisition")
        stats = acquisition.get("stats") if isinstance(acquisition, dict) else None
        if not isinstance(stats, dict):
            return False
        times = (stats.get("start_time"), stats.get("stop_time"))
        newest = max((t for t in times if isinstance(t, int | float) and t < now + AHEAD), default=0.0)
        if newest < self._newest_time:
            return True
        self._newest_time = newest
        return False


def _as_bytes(text) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, count = entry_id.partition(b"-")
    return int(milliseconds), int(count or 0)

"""What stands in Redis: statuses (twice), the log, throughput, reports on files, configurations deployed."""

from __future__ import annotations

import io
import json
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  reads compressed files
import numpy as np
import redis
from PIL import Image
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from ...limits import Limit
from ..faults import Faults
from .settings import ServiceError, Timing

logger = logging.getLogger(__name__)

STATUS, CONFIG, LOG, STAT = "daq:status", "daq:config", "daq:log", "daq:stat"
ATTEMPTS = 10


class RedisStreams:
    """Streams on one Redis server. Nothing is ever trimmed unless `maxlen` says so.

    Every method raises redis.RedisError, whose text is what the service replies.
    """

    def __init__(self, url: str, timing: Timing, maxlen: int | None = None):
        self._maxlen = maxlen
        backoff = ConstantBackoff(timing.redis_patience / ATTEMPTS)
        self.redis: Any = redis.Redis.from_url(
            url,
            protocol=2,
            decode_responses=True,
            socket_connect_timeout=2,
            socket_timeout=5,
            retry=Retry(backoff, ATTEMPTS),
        )

    def add(self, key: str, content: dict) -> str:
        """Append a JSON object; return its id."""
        return self.redis.xadd(key, {"json": json.dumps(content)}, maxlen=self._maxlen)

    def newest(self, key: str, count: int = 1) -> list[tuple[str, dict]]:
        """Return the newest entries, newest first."""
        return [(i, json.loads(fields["json"])) for i, fields in self.redis.xrevrange(key, count=count)]

    def log_entry(self, log_id: str) -> dict:
        """Return one acquisition of the log."""
        found = self.redis.xrange(LOG, log_id, log_id)
        if not found:
            raise ServiceError(f"Cannot find log with log_id={log_id}.")
        return json.loads(found[0][1]["json"])

    def n_reports(self, log_id: str) -> int:
        """Count the validator's reports on a logged file."""
        return self.redis.xlen(f"{LOG}:{log_id}")

    def report(self, config_id: str, server: str, message: str) -> None:
        """Append a server's deployment report."""
        self.redis.xadd(f"{CONFIG}:{config_id}", {"server_name": server, "message": message})

    def reports(self, config_id: str) -> list[tuple[str, str, str]]:
        """Return (id, server, message) of all deployment reports, oldest first."""
        entries = self.redis.xrange(f"{CONFIG}:{config_id}")
        return [(entry_id, fields["server_name"], fields["message"]) for entry_id, fields in entries]

    def deployment(self) -> dict:
        """Sum up the reports on the newest configuration."""
        newest = self.newest(CONFIG)
        config_id = newest[0][0] if newest else None
        reports = self.reports(config_id) if config_id else []
        servers = {server: message for _, server, message in reports}
        words = set(servers.values())
        if config_id is None:
            status, message = "UNKNOWN", "No config available"
        elif not words:
            status, message = "UNKNOWN", "Waiting for servers..."
        elif words == {"Done"}:
            status, message = "SUCCESS", "Deployment successful"
        elif "Error" in words:
            status, message = "ERROR", "Deployment failed"
        elif "Deploying" in words:
            status, message = "RUNNING", "Deploying on servers..."
        else:
            status, message = "UNKNOWN", "Unexpected state. Check logs on Elastic."
        times = {
            "start_time": _seconds(config_id) if config_id else 0,
            "stop_time": _seconds(reports[-1][0]) if reports else 0,
        }
        summary = {"config_id": config_id, "status": status, "message": message}
        return {**summary, "servers": servers, "stats": times}

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()


LASTING = 5
"""So many times the patience of one call with an absent Redis, and the service stops to log."""


class StatusPublisher:
    """Statuses and log entries, in order, in a thread; waits out an absent Redis.

    Two parts of the real service write the status. The second one sleeps until the first detector image and
    then catches up, so old statuses appear after newer ones. A lasting outage ends the log for good.
    """

    def __init__(self, store: RedisStreams, timing: Timing, on_log: Callable[[str, dict], None]):
        self._store, self._timing, self._on_log = store, timing, on_log
        self._log_ended = False
        self._outbox: queue.Queue[tuple[str, dict] | None] = queue.Queue()
        self._held: list[dict] | None = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="std-daq publisher", daemon=True)
        self._thread.start()

    def status(self, status: dict) -> None:
        """Publish a status, once or twice."""
        with self._lock:
            self._outbox.put((STATUS, status))
            if self._held is None:
                self._outbox.put((STATUS, status))
            else:
                self._held.append(status)

    def log(self, acquisition: dict) -> None:
        """Append to the log."""
        self._outbox.put((LOG, acquisition))

    def image_seen(self) -> None:
        """Note a detector image: the second writer of statuses wakes up."""
        if self._held is None:
            return
        with self._lock:
            for status in self._held or ():
                self._outbox.put((STATUS, status))
            self._held = None

    def close(self) -> None:
        """End the thread; what an absent Redis did not take is lost. Safe twice."""
        self._closing.set()
        self._outbox.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        while (item := self._outbox.get()) is not None:
            key, content = item
            if key == LOG and self._log_ended:
                continue
            entry_id = self._stored(key, content)
            if key == LOG and entry_id is not None:
                self._on_log(entry_id, content)

    def _stored(self, key: str, content: dict) -> str | None:
        """Return the id of the new entry; None where it cannot be stored any more."""
        outage = Limit(LASTING * self._timing.redis_patience)
        while not self._closing.is_set():
            try:
                entry_id = self._store.add(key, content)
            except redis.RedisError:
                log_waits = key == LOG or any(item and item[0] == LOG for item in tuple(self._outbox.queue))
                if outage.reached() and log_waits:
                    self._log_ended = True
                if key == LOG and self._log_ended:
                    return None
            else:
                return entry_id
        return None


class StatsCounter:
    """Images and bytes per second of detector and writer, once per period, until Redis is away too long."""

    def __init__(self, store: RedisStreams, timing: Timing, counts: Callable[[], tuple[int, int, int]]):
        self._store, self._timing, self._counts = store, timing, counts
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="std-daq stats", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before, begin = self._counts(), time.monotonic()
        rates = (0.0, 0.0)
        while True:
            try:
                self._store.add(STAT, _stats(*rates, before[2]))
            except redis.RedisError:
                return
            if self._closing.wait(self._timing.stats_period):
                return
            now, end = self._counts(), time.monotonic()
            rates = ((now[0] - before[0]) / (end - begin), max(0, now[1] - before[1]) / (end - begin))
            before, begin = now, end

    def close(self) -> None:
        """End the thread. Safe twice."""
        self._closing.set()
        self._thread.join(10)


def _stats(detector: float, writer: float, image_bytes: int) -> dict:
    return {
        name: {"bytes_per_second": rate * image_bytes, "images_per_second": rate}
        for name, rate in (("detector", detector), ("writer", writer))
    }


def grey_picture(frame: np.ndarray) -> Image.Image:
    """Return the frame (y, x) as a picture, darkest pixel black, brightest white."""
    low, high = float(frame.min()), float(frame.max())
    scaled = (frame - low) * (255.0 / max(high - low, 1.0))
    return Image.fromarray(scaled.astype("u1"))


def validate(store: RedisStreams, log_id: str, path: str) -> None:
    """Read the file, append the report to ``daq:log:<log_id>`` and store the GIF."""
    gif = b""
    try:
        with h5py.File(path, "r") as file:
            group = next(iter(file.values()))
            image_id = group["image_id"][:]
            n_images = group["data"].shape[0]
            rows = np.linspace(0, n_images - 1, min(5, n_images)).astype(int)
            pictures = [grey_picture(group["data"][row]) for row in rows]
        output = io.BytesIO()
        pictures[0].save(output, "GIF", save_all=True, append_images=pictures[1:], duration=500)
        gif = output.getvalue()
        report = {
            "readable": True,
            "n_images": n_images,
            "image_id_range": [int(image_id[0]), int(image_id[-1])],
        }
    except (OSError, KeyError, StopIteration, IndexError):
        report = {"readable": False, "n_images": 0, "image_id_range": [0, 0]}
    record = {"report_type": "file_validator", "report": report}
    store.redis.xadd(f"{LOG}:{log_id}", {"json": json.dumps(record)})
    store.redis.set(f"daq:gif:{log_id}", gif)


class Deployer:
    """The simulated servers of the DAQ: each reports, then the writer goes away for a while.

    Then `stop_writer` is called, and ``restart(config)`` once it has been away long enough; not for
    `running`, the id of the configuration that the writer runs with, which is reported alone.
    """

    def __init__(
        self,
        store: RedisStreams,
        timing: Timing,
        faults: Faults,
        *,
        servers: Sequence[str],
        running: str | None,
        stop_writer: Callable[[], None],
        restart: Callable[[dict], None],
    ):
        self._store, self._timing, self._faults = store, timing, faults
        self._servers, self._running = servers, running
        self._stop_writer, self._restart = stop_writer, restart
        self._closing = threading.Event()
        self._seen: str | None = None
        self.deployed: str | None = None  # the configuration with which all is done
        self._thread = threading.Thread(target=self._run, name="std-daq deployer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Safe twice."""
        self._closing.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._closing.wait(self._timing.deployer_poll):
            try:
                newest = self._store.newest(CONFIG)
                if newest and newest[0][0] != self._seen:
                    self._deploy(*newest[0])
                    self.deployed = self._seen
            except redis.RedisError as exc:
                logger.debug("deployer: %s", exc)

    def _deploy(self, config_id: str, config: dict) -> None:
        self._seen = config_id
        for server in self._servers:
            self._closing.wait(random.random() * self._timing.deployer_poll / len(self._servers))
            self._store.report(config_id, server, "Deploying")
            fault = self._faults.take("server_error")
            self._store.report(config_id, server, fault.get("text", "Error") if fault else "Done")
            if fault:
                return
        if config_id == self._running:
            return
        self._stop_writer()
        if not self._closing.wait(self._timing.restart):
            self._restart(config)


def _seconds(entry_id: str) -> float:
    """Read an id as seconds as the service does, the counter glued on as decimals: ``...255-1`` is .2551."""
    milliseconds, _, count = entry_id.partition("-")
    return float(f"{milliseconds[:-3]}.{milliseconds[-3:]}{count}")

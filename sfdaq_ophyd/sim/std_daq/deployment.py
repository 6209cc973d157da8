"""Configuration: stored in Redis, picked up by the servers, followed by a restart of the writer."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence

import redis

from .faults import Faults
from .store import CONFIG, Store
from .timing import Timing

logger = logging.getLogger(__name__)


class Deployer:
    """The simulated servers of the DAQ: each reports, then the writer goes away for a while.

    Parameters
    ----------
    store, timing, faults
        Of the service.
    servers : sequence of str
        Their names.
    restart : callable
        Takes the new configuration; called once the writer has been away long enough.
    stop_writer : callable
        Called when the writer goes away.
    """

    def __init__(
        self,
        store: Store,
        timing: Timing,
        faults: Faults,
        *,
        servers: Sequence[str],
        stop_writer: Callable[[], None],
        restart: Callable[[dict], None],
    ):
        self._store, self._timing, self._faults = store, timing, faults
        self._servers, self._stop_writer, self._restart = servers, stop_writer, restart
        self._closing = threading.Event()
        self._seen: str | None = None
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
            except redis.RedisError as exc:
                logger.debug("deployer: %s", exc)

    def _deploy(self, config_id: str, config: dict) -> None:
        first, self._seen = self._seen is None, config_id
        for server in self._servers:
            self._closing.wait(random.random() * self._timing.deployer_poll / len(self._servers))
            self._store.report(config_id, server, "Deploying")
            fault = self._faults.take("server_error")
            self._store.report(config_id, server, fault.get("text", "Error") if fault else "Done")
            if fault:
                return
        if first:
            return  # what was there at the start is what the writer runs with
        self._stop_writer()
        if not self._closing.wait(self._timing.restart):
            self._restart(config)


def deployment(store: Store) -> dict:
    """Sum up the reports on the newest configuration."""
    newest = store.newest(CONFIG)
    if not newest:
        return _summary(None, "UNKNOWN", "No config available", {}, 0, 0)
    config_id = newest[0][0]
    reports = store.reports(config_id)
    servers = {server: message for _, server, message in reports}
    words = set(servers.values())
    if not words:
        status, message = "UNKNOWN", "Waiting for servers..."
    elif words == {"Done"}:
        status, message = "SUCCESS", "Deployment successful"
    elif "Error" in words:
        status, message = "ERROR", "Deployment failed"
    elif "Deploying" in words:
        status, message = "RUNNING", "Deploying on servers..."
    else:
        status, message = "UNKNOWN", "Unexpected state. Check logs on Elastic."
    stop = _seconds(reports[-1][0]) if reports else 0
    return _summary(config_id, status, message, servers, _seconds(config_id), stop)


def _seconds(entry_id: str) -> float:
    """Read an id as seconds as the service does, the counter glued on as decimals: ``...255-1`` is .2551."""
    milliseconds, _, count = entry_id.partition("-")
    return float(f"{milliseconds[:-3]}.{milliseconds[-3:]}{count}")


def _summary(config_id, status, message, servers, start_time, stop_time) -> dict:
    return {
        "config_id": config_id,
        "status": status,
        "message": message,
        "servers": servers,
        "stats": {"start_time": start_time, "stop_time": stop_time},
    }

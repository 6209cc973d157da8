"""The status object of the service: what each event makes of it, in both dialects.

The service keeps one plain dictionary; its text stands in error messages and in Redis, so the order of the
keys matters.
"""

from __future__ import annotations

import copy
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

import redis

from ..faults import Faults
from .publisher import CONFIG, Store
from .settings import Timing

logger = logging.getLogger(__name__)


UNKNOWN, READY, WRITING = "UNKNOWN", "READY", "WRITING"


class DaqState:
    """Status of writer and acquisition.

    Parameters
    ----------
    null_acquisition : bool
        Before the first acquisition it is null (D2), not an empty record (D1).
    """

    def __init__(self, *, null_acquisition: bool):
        self._null = null_acquisition
        self.status: dict = {}
        self.unknown()

    def unknown(self) -> None:
        """Forget the acquisition: the writer did not answer."""
        empty = {
            "state": "FINISHED",
            "message": "",
            "info": {"n_images": 0},
            "stats": {"n_write_completed": 0, "n_write_requested": 0, "start_time": None, "stop_time": None},
        }
        self.status = {"state": UNKNOWN, "acquisition": None if self._null else empty}

    def opened(self, info: dict) -> None:
        """Begin an acquisition: the writer has its file."""
        self.status = {
            "state": WRITING,
            "acquisition": {
                "state": "WAITING_IMAGES",
                "message": "",
                "stats": {
                    "n_write_completed": 0,
                    "n_write_requested": 0,
                    "start_time": time.time(),
                    "stop_time": None,
                },
                "info": info,
            },
        }

    def requested(self) -> None:
        """Count an image handed to the writer."""
        if self.acquisition is not None:
            self.acquisition["stats"]["n_write_requested"] += 1

    def acknowledged(self) -> int:
        """Count an image the writer has; return how many."""
        if self.acquisition is None or self.state != WRITING:
            return 0
        self.acquisition["state"] = "ACQUIRING_IMAGES"
        self.acquisition["stats"]["n_write_completed"] += 1
        return self.acquisition["stats"]["n_write_completed"]

    def failed(self, text: str) -> None:
        """Note a failed start: it turns the *previous* acquisition into FAILED, both times overwritten."""
        self.status["state"] = READY
        if self.acquisition is not None:
            now = time.time()
            self.acquisition.update(state="FAILED", message=text)
            self.acquisition["stats"].update(start_time=now, stop_time=now)

    def closed(self, message: str) -> bool:
        """End the acquisition, also one that had ended; return whether it belongs in the log."""
        self.status["state"] = READY
        if self.acquisition is None:
            return False
        self.acquisition.update(state="FINISHED", message=message)
        self.acquisition["stats"]["stop_time"] = time.time()
        return self.acquisition["stats"]["start_time"] is not None

    @property
    def state(self) -> str:
        """UNKNOWN, READY or WRITING."""
        return self.status["state"]

    @property
    def acquisition(self) -> dict | None:
        """The record itself."""
        return self.status["acquisition"]

    @property
    def begun(self) -> dict:
        """The record of an acquisition that was begun: there is one while WRITING."""
        assert self.acquisition is not None
        return self.acquisition

    @property
    def error(self) -> str | None:
        """Text of the last error, as long as it stands there."""
        message = "" if self.acquisition is None else self.acquisition["message"]
        return message if message.startswith("ERROR") else None

    def snapshot(self) -> dict:
        """Copy the status."""
        return copy.deepcopy(self.status)


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

"""A simulator of its own for one recording, and what the recording does not show being done to it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import redis
import requests

from sfdaq_ophyd.sim.clock import PulseClock
from sfdaq_ophyd.sim.std_daq.service import StdDaqServer
from sfdaq_ophyd.sim.std_daq.settings import StdDaqSettings

from .recording import identity, is_named, path_of

RAW = "/sls/test/raw"
START = ("/writer/write_async", "/writer/write_sync")
NOBODY = {
    "info": {"n_images": 1, "output_file": f"{RAW}/before.h5", "run_id": 1},
    "stats": {"n_write_completed": 1, "n_write_requested": 1},
    "message": "Completed.",
}
"""An acquisition for a service that must have had one."""

WAITS = (60.0, 5.0, 0.1)
"""s the service takes for starts and stops: the order of magnitude of a reply's time."""


class Scene:
    """One fresh simulator; use as a context manager.

    Parameters
    ----------
    wait_for : callable
        The fixture.
    **settings
        Of the simulator.
    """

    def __init__(self, wait_for, **settings):
        self.patience = 30.0  # s; less once something differed

        def wait(*args, timeout=30.0, **more):
            return wait_for(*args, timeout=min(timeout, self.patience), **more)

        self.wait_for = wait
        self.root = Path(tempfile.mkdtemp(prefix="sls-"))
        self.root.chmod(0o755)  # the service must see it as another user
        (self.root / "raw" / "isdir.h5").mkdir(parents=True)
        (self.root / "private" / "in").mkdir(parents=True)
        (self.root / "private").chmod(0o700)
        folders = {"/sls/test": str(self.root)}
        self.server = StdDaqServer(
            StdDaqSettings(running=False, servers=(), folders=folders, **settings), PulseClock()
        )
        self.next_id = 1000
        self.sent: set[tuple] = set()

    def __enter__(self):
        self.server.start()
        self.source = self.server.service.source
        self.redis = redis.Redis.from_url(self.server.redis_url)
        return self

    def __exit__(self, *exc_info):
        self.server.stop()
        self.redis.close()
        shutil.rmtree(self.root)

    # ---- one thing each -----------------------------------------------------------------------------

    def status(self) -> dict:
        return self.server.service.status()

    def post(self, path: str, body=None):
        return requests.post(self.server.url + path, json=body, timeout=70)

    def reset(self):
        self.wait_for(lambda: self.post("/writer/stop").json()["status"] == "ok", "writer READY")

    def lose(self):
        """Let the service lose track of the writer: a request that its driver cannot encode."""
        if self.status()["state"] == "WRITING":
            self.post("/writer/stop")
        if self.status()["state"] != "UNKNOWN":
            self.post(START[0], {"output_file": f"{RAW}/lost.h5", "n_images": 2**31})

    def images(self, n: int):
        self.source.burst(n, rate=2000.0, first_id=self.next_id)
        self.next_id += n

    def is_running(self, acquisition: dict) -> bool:
        status = self.status()
        return status["state"] == "WRITING" and self.is_known(acquisition)

    def is_known(self, acquisition: dict) -> bool:
        ours = self.status()["acquisition"]
        return is_named(ours) and identity(ours["info"]) == identity(acquisition["info"])

    def newest_log_id(self) -> str:
        """Return the id of the newest entry of the log, once what ended last is there."""

        def newest() -> str | None:
            status, entries = self.status(), self.server.service.logs(1)
            if not entries or status["state"] == "READY" and not self.is_known(entries[0][1]):
                return None
            return entries[0][0]

        return self.wait_for(newest, "log entry of the last acquisition")

    def wait_logged(self) -> None:
        """Wait until the log has what ended last; all that has begun comes there."""

        def there() -> bool:
            ended, entries = self.status()["acquisition"], self.server.service.logs(1)
            if ended is None or ended["stats"]["start_time"] is None:
                return True
            return bool(entries) and entries[0][1]["stats"] == ended["stats"]

        self.wait_for(there, "log entry of the last acquisition")

    # ---- acquisitions -------------------------------------------------------------------------------

    def begin(self, acquisition: dict):
        """Start it, and let it get as far as was recorded."""
        if self.status()["state"] != "READY":
            self.reset()
        self.sent.add(identity(acquisition["info"]))
        self.post(START[0], acquisition["info"])
        self.wait_for(lambda: self.is_running(acquisition), f"WRITING {acquisition['info']}")
        self.drive_to(acquisition)

    def drive_to(self, acquisition: dict):
        """Let images come until the running acquisition looks like `acquisition`."""
        wanted = acquisition["stats"]["n_write_completed"]
        if _is_whole(acquisition) and acquisition["stats"]["stop_time"] is None:
            wanted -= 1  # a moment before the end; how many there were is not compared
        current = self.status()["acquisition"]
        done = current["stats"]["n_write_completed"] if current else 0
        if wanted <= done or self.status()["state"] != "WRITING":
            return
        self.wait_for(lambda: self.server.service.source._accepting(), "driver subscribed")
        self.images(wanted - done)

        def there():
            current = self.status()["acquisition"]
            return current is not None and current["stats"]["n_write_completed"] >= wanted

        self.wait_for(there, f"{wanted} images written")

    def finish(self, acquisition: dict | None):
        """Bring what runs to its recorded end; stop it where none is recorded."""
        if acquisition is not None:
            self.drive_to(acquisition)
        if acquisition is None or not _is_whole(acquisition):
            self.reset()
        self.wait_for(lambda: self.status()["state"] == "READY", "end of the acquisition")

    def help_sync(self, acquisition: dict):
        """Let a synchronous start, made in another thread, come to its recorded end."""
        running = lambda: self.is_running(acquisition) and self.server.service.source._accepting()  # noqa: E731
        self.wait_for(running, "write_sync WRITING")
        self.drive_to(acquisition)
        if acquisition["message"] == "Interrupted.":
            self.reset()

    def perform(self, acquisition: dict):
        """Carry out an acquisition the rows only mention, with the recorded end."""
        if self.status()["state"] != "READY":
            self.reset()
        if not self.is_known(acquisition):
            self.begin(acquisition)
            self.finish(acquisition)
            return
        if _is_whole(acquisition) and acquisition["message"] == "Interrupted.":  # a start failed after it
            n_images = acquisition["info"]["n_images"] + 4
            self.post(START[0], {"output_file": f"{RAW}/isdir.h5", "n_images": n_images})
        self.reset()  # a second entry of the same acquisition: somebody stopped again

    def send(self, request):
        headers = request.get("headers") or {}
        body = request.get("body")
        options = {"json": request["json"]} if "json" in request else {"data": body and body.encode()}
        if "json" in request and request["json"] is None:
            options = {"data": b"null"}
            headers = {"Content-Type": "application/json"}
        path = self.own_ids(request["path"])
        return requests.request(
            request["method"],
            self.server.url + path,
            headers=headers,
            timeout=70,
            stream="live" in path,
            **options,
        )

    def own_ids(self, path: str) -> str:
        """Replace a recorded log id by the newest one of ours."""
        parts = path.split("/")
        if len(parts) > 2 and parts[1] == "file" and len(parts[2].split("-")[0]) == 13:
            parts[2] = self.newest_log_id()
        return "/".join(parts)

    def too_quick(self, row, took: float) -> str | None:
        """Tell whether the reply came sooner than the service can, at the simulator's speed."""
        least = next((wait for wait in WAITS if (row.get("elapsed_s") or 0) >= wait), 0.0)
        if (
            path_of(row).startswith("/writer/")
            and row["request"]["method"] == "POST"
            and took * self.speed < 0.9 * least
        ):
            return f"{path_of(row)}: answered after {took * self.speed:.2f} s, recorded {row['elapsed_s']} s"
        return None


def _is_whole(acquisition: dict) -> bool:
    return acquisition["stats"]["n_write_completed"] == acquisition["info"]["n_images"]

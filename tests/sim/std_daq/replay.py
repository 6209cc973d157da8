"""Replay of one recorded scenario against the simulator.

Recordings are selections: what happened between the rows (images, a writer put back to READY, acquisitions of
earlier scenarios) is done here as the rows that follow show it must have been.
"""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import h5py
import redis
import requests

from sfdaq_ophyd.sim.clock import PulseClock
from sfdaq_ophyd.sim.std_daq.server import StdDaqServer
from sfdaq_ophyd.sim.std_daq.settings import Settings

from .recording import acquisition_of, identity, log_of, masked

SPEED = 8.0
"""Of the simulator: the recorded 5 s become 0.6 s."""

RAW = "/sls/test/raw"
START = ("/writer/write_async", "/writer/write_sync")


class Mismatch(AssertionError):
    """A reply differs from the recorded one."""


class Replay:
    """One scenario on one fresh simulator; use as a context manager.

    Parameters
    ----------
    meta, rows
        As `recording.read` returns them.
    wait_for : callable
        The fixture.
    """

    def __init__(self, meta: dict, rows: list[dict], wait_for):
        self.rows, self.wait_for = rows, partial(wait_for, timeout=30)
        self.root = Path(tempfile.mkdtemp(prefix="sls-"))
        self.root.chmod(0o755)  # the service must see it as another user
        (self.root / "raw" / "isdir.h5").mkdir(parents=True)
        (self.root / "private" / "in").mkdir(parents=True)
        (self.root / "private").chmod(0o700)
        stack = meta["stack"]
        starts = [row for row in rows if "request" in row and row["request"]["path"] in START]
        at_once = any(
            second["t"] - first["t"] < 0.005 < 0.05 < first["elapsed_s"]
            for first, second in zip(starts, starts[1:])
        )
        longest = max((row.get("elapsed_s") or 0 for row in rows), default=0)
        self.speed = 0.2 if at_once else 30.0 if longest > 20 else SPEED
        notes = str([row.get("note") for row in rows])
        self.boot = "just started" in notes
        self.server = StdDaqServer(
            Settings(
                dialect=stack.split("-")[0],
                pydantic=1 if stack.endswith("pydantic1") else 2,
                speed=self.speed,
                running=False,
                servers=(),
                simulation="present" in meta["scenario"],
                validator="validator" in meta["scenario"],
                folders={"/sls/test": str(self.root)},
            ),
            PulseClock(),
        )
        self.started: list[tuple] = []
        self.next_id = 1000

    def __enter__(self):
        self.server.start()
        self.source = self.server.service.source
        self.redis = redis.Redis.from_url(self.server.redis_url)
        return self

    def __exit__(self, *exc_info):
        self.server.stop()
        self.redis.close()
        shutil.rmtree(self.root)

    # ---- what the rows do not show ------------------------------------------------------------------

    def status(self) -> dict:
        return self.server.service.status()

    def reset(self):
        self.wait_for(lambda: self.post("/writer/stop").json()["status"] == "ok", "writer READY")

    def post(self, path: str, body=None):
        return requests.post(self.server.url + path, json=body, timeout=70)

    def images(self, n: int):
        self.source.burst(n, rate=2000.0, first_id=self.next_id)
        self.next_id += n

    def drive_to(self, acquisition: dict):
        """Let images come until the running acquisition looks like `acquisition`."""
        wanted = acquisition["stats"]["n_write_completed"]

        def there():
            current = self.status()["acquisition"]
            return current is not None and current["stats"]["n_write_completed"] >= wanted

        current = self.status()["acquisition"]
        done = current["stats"]["n_write_completed"] if current else 0
        if wanted > done and self.status()["state"] == "WRITING":
            self.wait_for(lambda: self.server.service.source._accepting(), "driver subscribed")
            self.images(wanted - done)
            self.wait_for(there, f"{wanted} images written")

    def perform(self, acquisition: dict):
        """Carry out an acquisition the rows only mention, with the recorded end."""
        info, stats = acquisition["info"], acquisition["stats"]
        done = stats["n_write_completed"] == info["n_images"]
        if self.status()["state"] != "READY":
            self.reset()
        last = self.status()["acquisition"]
        if (
            done
            and last
            and acquisition["message"] == "Interrupted."
            and identity(last["info"]) == identity(info)
        ):
            self.post(START[0], {"output_file": f"{RAW}/isdir.h5", "n_images": info["n_images"] + 4})
            self.reset()
            return
        if last and identity(last["info"]) == identity(info) and not done:
            self.reset()  # a second entry of the same acquisition: somebody stopped again
            return
        self.post(START[0], info)
        self.wait_for(lambda: self.status()["state"] == "WRITING", f"WRITING {info}")
        self.drive_to(acquisition)
        if not done:
            self.reset()
        self.wait_for(lambda: self.status()["state"] == "READY", f"end of {info}")

    def prime(self):
        """Make the state the scenario began with."""
        if self.boot:
            return
        self.reset()
        starts = [
            row["request"]["json"]
            for row in self.rows
            if "request" in row
            and row["request"]["path"] in START
            and isinstance(row["request"].get("json"), dict)
        ]
        ours = {(str(body.get("output_file")), body.get("run_id")) for body in starts}
        old, seen = [], set()
        for row in self.rows:
            reply = row.get("reply")
            found = log_of(reply)[::-1]
            if (current := acquisition_of(reply)) and not log_of(reply):
                failed_only = current["state"] == "FAILED" or not row.get("before_first", True)
                found = [dict(current, state="FINISHED", message="Completed.")] if failed_only else [current]
            for acquisition in found:
                info, stats = acquisition["info"], acquisition["stats"]
                mine = (info["output_file"], info["run_id"]) in ours or (info["output_file"], None) in ours
                key = (identity(info), acquisition["message"], stats["stop_time"])
                if not mine and key not in seen:
                    seen.add(key)
                    old.append(acquisition)
        stops = [a for a in old if a["stats"]["stop_time"] is not None]
        for acquisition in sorted(stops, key=lambda a: a["stats"]["stop_time"]):
            self.perform(acquisition)

    def prime_config(self):
        """Store the configuration the scenario began with."""
        for row in self.rows:
            if "request" in row and row["request"]["path"] == "/daq/config":
                if row["request"]["method"] == "GET" and row["reply"].get("config"):
                    if row["reply"]["config"] != self.server.service.config()[0]:
                        self.redis.xadd("daq:config", {"json": json.dumps(row["reply"]["config"])})
                return

    # ---- the rows -----------------------------------------------------------------------------------

    def run(self):
        self.prime()
        if not any("writer_user_id" in str(row.get("note")) for row in self.rows):
            self.prime_config()
        pending: list[tuple[float, threading.Thread]] = []
        previous = None
        problems: list[str] = []
        for i, row in enumerate(self.rows):
            if "request" not in row:
                self.note(row["note"], i)
                continue
            if "poll" in row:
                continue
            if self.is_halfway(row, i):
                continue
            again = (row["request"], masked(row.get("reply")))
            if again == previous and row["request"]["method"] == "GET" and "/daq/" in row["request"]["path"]:
                continue
            previous = again
            ends = row["t"] + (row.get("elapsed_s") or 0)
            if i + 1 < len(self.rows) and ends > self.rows[i + 1]["t"] + 0.01:
                pending.append((ends, self.in_background(row, problems)))
                gap = (self.rows[i + 1]["t"] - row["t"]) / max(1.0, self.speed)
                threading.Event().wait(gap)
                continue
            if self.sync_needs_help(row):
                thread = self.in_background(row, problems)
                self.help_sync(row)
                thread.join(30)
                continue
            for end, thread in pending:
                if end < row["t"]:
                    thread.join(30)
            self.compare(row, problems)
            if self.is_ok_start(row):
                self.polls(i, problems)
        for _, thread in pending:
            thread.join(30)
        if problems:
            raise Mismatch("\n".join(problems))

    def is_halfway(self, row, i: int) -> bool:
        """Tell a deployment of which one server had reported and the other one was about to."""
        servers = [
            ((later.get("reply") or {}).get("deployment") or {}).get("servers") or {}
            for later in (row, *self.rows[i + 1 : i + 5])
            if isinstance(later.get("reply"), dict)
        ]
        return len(servers) > 1 and bool(servers[0]) and len(servers[0]) < max(map(len, servers))

    def in_background(self, row, problems) -> threading.Thread:
        thread = threading.Thread(target=self.compare, args=(row, problems), daemon=True)
        thread.start()
        return thread

    @staticmethod
    def is_ok_start(row) -> bool:
        return row["request"]["path"] == START[0] and (row.get("reply") or {}).get("status") == "ok"

    @staticmethod
    def sync_needs_help(row) -> bool:
        ok = (row.get("reply") or {}).get("status") == "ok"
        return row["request"]["path"] == START[1] and ok

    def help_sync(self, row):
        acquisition = acquisition_of(row["reply"])
        self.wait_for(self.server.service.source._accepting, "write_sync WRITING")
        self.drive_to(acquisition)
        if acquisition["message"] == "Interrupted.":
            self.reset()

    def compare(self, row, problems):
        request, wanted = row["request"], row.get("reply", row.get("reply_text"))
        self.settle(row)
        deadline = time.monotonic() + (10.0 if request["method"] == "GET" else 0.0)
        while True:
            problem = self.differs(row, self.send(request), wanted)
            if problem is None or time.monotonic() > deadline:
                break
        if problem:
            problems.append(problem)

    def settle(self, row):
        """Bring the simulator to where the next reply says it was."""
        request, reply = row["request"], row.get("reply")
        message = (reply or {}).get("message", "") if isinstance(reply, dict) else ""
        if request["path"] in START and not message.startswith("Cannot start new"):
            boot_like = self.status()["state"] != "READY" and "Invalid" not in message
            if boot_like and row.get("status_code") == 200 and not self.concurrent(row):
                self.reset()
        if acquisition := acquisition_of(reply):
            stats = acquisition["stats"]
            if (waiting := stats["n_write_requested"] - stats["n_write_completed"]) > 5:
                driver = self.server.service._driver
                blocked = lambda: driver._outstanding == waiting and driver._inbox.qsize() > 5  # noqa: E731
                self.wait_for(blocked, "a blocked driver")
            current = self.status()["acquisition"]
            known = current is not None and identity(current["info"]) == identity(acquisition["info"])
            if known and self.status()["state"] == "WRITING" and request["path"] != START[0]:
                self.drive_to(acquisition)
                stopped = acquisition["stats"]["n_write_completed"] < acquisition["info"]["n_images"]
                if request["method"] == "GET" and acquisition["state"] == "FINISHED" and stopped:
                    self.reset()
            elif not known and request["method"] == "GET" and acquisition["state"] == "FINISHED":
                if not self.source._accepting() and self.status()["state"] != "WRITING":
                    self.perform(acquisition)
        note = str(row.get("note"))
        if "injected" in note:
            word = {"Deploying": "Deploying", "Error": "Error"}.get(note.split()[-1], "What")
            config_id = self.server.service.config()[1]
            self.redis.xadd(f"daq:config:{config_id}", {"server_name": "daq-srv-2", "message": word})
        if "deployers running" in note:
            self.server.service.add_servers(["daq-srv-1", "daq-srv-2"])
        if "Hz detector" in note:
            self.source.burst(100_000, rate=100.0)
        if "detector stopped" in note:
            self.source.silence()
        if "file deleted" in note:
            (self.root / "raw" / "view.h5").unlink()

    def concurrent(self, row) -> bool:
        i = self.rows.index(row)
        return i > 0 and "request" in self.rows[i - 1] and row["t"] - self.rows[i - 1]["t"] < 0.02

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
            parts[2] = self.server.service.logs(1)[0][0]
        return "/".join(parts)

    def differs(self, row, response, wanted) -> str | None:
        request = row["request"]
        what = f"{request['method']} {request['path']} {request.get('json', request.get('body', ''))}"
        if response.status_code != row["status_code"]:
            return (
                f"{what}: code {response.status_code}, recorded {row['status_code']}: {response.text[:300]}"
            )
        got_type = response.headers.get("Content-Type", "")
        headers = {k.lower(): v for k, v in (row.get("headers") or {}).items()}
        wanted_type = row.get("content_type") or headers.get("content-type")
        if wanted_type and got_type.split(";")[0] != wanted_type.split(";")[0]:
            return f"{what}: type {got_type!r}, recorded {wanted_type!r}"
        if "live" in request["path"]:
            response.close()
        if not isinstance(wanted, dict):
            return None
        got = response.json()
        if "openapi" in wanted:
            wanted, got = set(wanted["paths"]), set(got["paths"])
        if masked(got) != masked(wanted):
            return f"{what}:\n  got      {masked(got)}\n  recorded {masked(wanted)}"
        return None

    def polls(self, i: int, problems):
        """Compare the sequence of states with the polls that follow row `i`."""
        polled = []
        for row in self.rows[i + 1 :]:
            if "poll" in row:
                polled.append(row)
            elif "request" in row:
                break
        if not polled:
            return
        recorded = _sequence([self.rows[i]["reply"], *(row["reply"] for row in polled)])
        last = acquisition_of(polled[-1]["reply"])
        seen = []
        self.source.burst(last["info"]["n_images"] + 5, rate=400.0)

        def finished():
            seen.append(requests.get(self.server.url + "/writer/status", timeout=5).json())
            return seen[-1]["writer"]["state"] == "READY"

        self.wait_for(finished, "end of the acquisition", period=0.002)
        got = _sequence([self.rows[i]["reply"], *seen])
        if got != recorded:
            problems.append(f"states {got}, recorded {recorded}")
        if masked(seen[-1]) != masked(polled[-1]["reply"]):
            problems.append(f"last status {masked(seen[-1])}, recorded {masked(polled[-1]['reply'])}")

    # ---- notes --------------------------------------------------------------------------------------

    def note(self, note, i: int):
        if isinstance(note, dict):
            self.check_note(note)
        elif "killed" in note:
            if "mid-acquisition" in note:
                self.source.burst(10_000, rate=100.0)
            self.server.fail_next("writer_dies")
        elif "restarted" in note and "writer" in note:
            self.server.service.restart_writer()
        elif note == "Redis stopped":
            self.server._embedded.stop()
        elif "Redis started again" in note:
            self.server._embedded.stop(empty="empty" in note)
            self.server._embedded.start()
            self.redis = redis.Redis.from_url(self.server.redis_url)
        elif "put back into Redis" in note:
            self.redis.xadd("daq:config", {"json": json.dumps(self.server.settings.first_config)})
        elif "writer_user_id=1000" in note:
            config = {**self.server.service.config()[0], "writer_user_id": 1000}
            self.redis.xadd("daq:config", {"json": json.dumps(config)})

    def check_note(self, note: dict):
        if "two requests on one connection" in note:
            self.check_connection(note)
        elif "data.shape" in note:
            path = self.root / Path(note["file"]).relative_to("/sls/test")
            with h5py.File(path) as file:
                group = next(iter(file.values()))
                shapes = [list(group[name].shape) for name in ("data", "status")]
                ids = (group["image_id"][:] > 0).tolist()
            assert shapes == [note["data.shape"], note["status.shape"]], note
            assert ids == [number > 0 for number in note["image_id"]], note
        elif "XRANGE daq:log:<log_id>" in note:
            log_id = self.server.service.logs(1)[0][0]
            entries = self.wait_for(lambda: self.redis.xrange(f"daq:log:{log_id}"), "validator's report")
            report = json.loads(entries[0][1][b"json"])
            assert report["report_type"] == "file_validator"
            assert report["report"]["readable"] is True
            assert self.wait_for(lambda: self.redis.get(f"daq:gif:{log_id}"), "GIF")[:3] == b"GIF"

    def check_connection(self, note: dict):
        """Two requests on one connection: what the second one meets is what was recorded."""
        connection = http.client.HTTPConnection(urlsplit(self.server.url).netloc, timeout=5)
        outcome = []
        body = json.dumps(note["two requests on one connection"])
        for _ in range(2):
            try:
                connection.request("POST", START[0], body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                outcome.append((reply.status, reply.will_close, json.loads(reply.read())))
            except (OSError, http.client.HTTPException):
                outcome.append(("lost",))
            threading.Event().wait(0.2)
        recorded = [
            ("lost",) if "error" in one else (one["status"], one["will_close"], json.loads(one["body"]))
            for one in note["outcome"]
        ]
        assert outcome == recorded


def _sequence(replies) -> list[tuple]:
    """Collapse replies to the states they went through."""
    states = []
    for reply in replies:
        acquisition = acquisition_of(reply)
        state = (reply["writer"]["state"], acquisition["state"], acquisition["message"])
        if not states or states[-1] != state:
            states.append(state)
    return states

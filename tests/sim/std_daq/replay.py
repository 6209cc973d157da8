"""Replay of one recorded scenario against the simulator.

Recordings are selections: what happened between the rows (images, a writer put back to READY, acquisitions of
earlier scenarios) is done here as the rows that follow show it must have been.
"""

from __future__ import annotations

import json
import re
import threading
import time

import requests

from sfdaq_ophyd.limits import Limit

from . import notes, streams
from .approach import Approach
from .recording import (
    acquisition_of,
    began,
    differs,
    end_of,
    identity_asked,
    in_order_of_arrival,
    is_together,
    log_of,
    masked,
    path_of,
    running,
    sequence,
    servers_of,
    settings_for,
    words_of,
)
from .scene import START

SPEED = 8.0
"""Of the simulator: the recorded 5 s become 0.6 s."""


class Mismatch(AssertionError):
    """A reply differs from the recorded one."""


class Replay(Approach):
    """One scenario on one fresh simulator; use as a context manager.

    Parameters
    ----------
    meta, rows
        As `recording.read` returns them.
    wait_for : callable
        The fixture.
    """

    def __init__(self, meta: dict, rows: list[dict], wait_for):
        self.rows = in_order_of_arrival(rows)
        longest = max((row.get("elapsed_s") or 0 for row in rows), default=0)
        pairs = list(zip(self.rows, self.rows[1:]))
        if any(is_together(*pair) for pair in pairs):
            self.speed = 0.2
        elif any(end_of(first) > second["t"] + 0.01 for first, second in pairs):
            self.speed = 4.0
        else:
            self.speed = 30.0 if longest > 20 else SPEED
        self.noted = " ".join(str(row.get("note")) for row in rows)
        self.boot = "just started" in str([row.get("note") for row in rows[:1]])
        self.problems: list[str] = []
        self.pending: list[tuple[float, threading.Thread]] = []
        self.created, self.deployed = threading.Event(), threading.Event()
        self.held: list[threading.Thread] = []
        super().__init__(wait_for, speed=self.speed, **settings_for(meta, rows))

    # ---- before the rows ----------------------------------------------------------------------------

    def prime(self):
        """Make the state the scenario began with."""
        if self.boot:
            return
        self.reset()
        starts = [row["request"].get("json") for row in self.rows if path_of(row) in START]
        asked = {identity_asked(body) for body in starts} | running(self.rows)
        beginning = began(self.rows)
        old, seen = [], set()
        for row in self.rows:
            reply = row.get("reply")
            found = log_of(reply)[::-1]
            if (current := acquisition_of(reply)) and not found:
                failed = current["state"] == "FAILED"
                found = [dict(current, state="FINISHED", message="Completed.")] if failed else [current]
            for acquisition in found:
                stats = acquisition["stats"]
                key = (identity_asked(acquisition["info"]), acquisition["message"], stats["stop_time"])
                over = stats["stop_time"] is not None and (stats["start_time"] or 0) < beginning
                if over and key[0] not in asked and key not in seen:
                    seen.add(key)
                    old.append(acquisition)
        for acquisition in sorted(old, key=lambda a: a["stats"]["stop_time"]):
            self.perform(acquisition)
        if old:
            self.wait_logged()

    def prime_config(self):
        """Store the configuration the scenario began with; a user that a note puts in comes with the note."""
        own = self.server.service.config()[0]
        name = re.search(r'"detector_name": "([^"]+)"|"Simulator for ([^"]+)\."', json.dumps(self.rows))
        config = {**own, "detector_name": name[1] or name[2]} if name else own
        first = next((row for row in self.rows if path_of(row) == "/daq/config"), None)
        if first is not None and first["request"]["method"] == "GET":
            config = (first.get("reply") or {}).get("config") or config
        if "writer_user_id" in self.noted:
            config = {**config, "writer_user_id": own["writer_user_id"]}
        if config != own:
            notes.store_config(self, config)

    # ---- the rows -----------------------------------------------------------------------------------

    def run(self, subtests) -> None:
        """Play every row to the end, whatever differs on the way; each is a subtest."""
        self.previous = None
        with subtests.test("what was before"):
            self.prime()
            self.prime_config()
        self.since = streams.ends(self)
        for i, row in enumerate(self.rows):
            with subtests.test(words_of(row, i)):
                try:
                    self.play(row, i)
                    self.tell()
                except Exception:
                    self.patience = min(self.patience, 2.0)  # the rows after it may differ, too
                    raise
        with subtests.test("what was still under way"):
            self.created.set()
            self.deployed.set()
            for _, thread in self.pending:
                thread.join(120)
            self.tell()

    def play(self, row, i: int) -> None:
        """Do what one row says, and compare."""
        if "request" not in row:
            if isinstance(row["note"], dict):
                notes.check(self, row["note"])
            elif i > 0 or not self.boot:
                self.before_note(str(row["note"]), self.rows[i + 1 :])
                notes.obey(self, str(row["note"]))
            return
        again = (row["request"], masked(row.get("reply")))
        if "poll" in row or self.is_halfway(row, i) or (again == self.previous and "/daq/" in path_of(row)):
            return  # compared with the row before
        self.previous = again
        self.one(row, i)

    def before_note(self, note: str, rest: list[dict]) -> None:
        """Let the writer get as far as the next row shows that it had before it was killed, or lost."""
        if not re.search("killed|restart", note) or self.status()["state"] != "WRITING":
            return
        acquisition = next(filter(None, (acquisition_of(row.get("reply")) for row in rest)), None)
        if acquisition is None or not self.is_running(acquisition):
            return
        self.drive_to(acquisition)
        stats = acquisition["stats"]
        if "killed" in note and stats["n_write_requested"] - stats["n_write_completed"] > 5:
            self.source.burst(10_000, rate=100.0)  # what the dead writer is given

    def tell(self) -> None:
        """Raise what differed since the last time."""
        problems, self.problems = self.problems, []
        if problems:
            raise Mismatch("\n".join(problems))

    def one(self, row, i: int):
        """Send the request of one row and compare the reply; in a thread if the next row came before it."""
        if i == 0 or not is_together(self.rows[i - 1], row):
            self.approach(row, self.rows[i:])
        if path_of(row) == "/daq/config" and row["request"]["method"] == "POST":
            self.hold_deployment(self.rows[i + 1 :])
        elif servers_of(row):
            self.deployed.set()
        if path_of(row) in START:
            self.sent.add(identity_asked(row["request"].get("json")))
        ends = end_of(row)
        following = self.rows[i + 1 : i + 2]
        with_next = bool(following) and is_together(row, following[0])
        if with_next or i > 0 and is_together(self.rows[i - 1], row):
            self.together(row, last=not with_next)
            return
        if following and ends > following[0]["t"] + 0.01:
            if path_of(row) == START[0] and path_of(following[0]) == "/writer/stop":
                self.pending.append((ends, self.while_creating(row)))
                return
            thread = self.in_background(row)
            self.pending.append((ends, thread))
            gap = (following[0]["t"] - row["t"]) / self.speed
            threading.Event().wait(gap)
            return
        if path_of(row) == START[1] and (row.get("reply") or {}).get("status") == "ok":
            thread = self.in_background(row)
            self.help_sync(acquisition_of(row["reply"]))
            thread.join(120)
            return
        for end, thread in self.pending:
            if end < row["t"]:
                self.created.set()
                thread.join(120)
        started = path_of(row) == START[0] and (row.get("reply") or {}).get("status") == "ok"
        held = started and self.flows
        if held:
            self.source.silence()  # the reply is of the moment before the first image
        self.compare(row)
        if self.bursts:  # until the start is over, however long that takes
            self.source.silence()
            self.bursts = False
        if held:
            self.flow()
        if started:
            self.polls(i)

    def hold_deployment(self, rest: list[dict]) -> None:
        """Let the servers wait with a configuration until a row shows that they have seen it."""
        deployer = self.server.service._deployer
        following = next((row for row in rest if path_of(row) == "/daq/deployment"), None)
        self.deployed.set()
        if deployer is None or following is None or servers_of(following):
            return
        deploy, deployed = type(deployer)._deploy, self.deployed
        deployed.clear()

        def wait(*args):
            deployed.wait(120)
            deploy(deployer, *args)

        deployer._deploy = wait

    def is_halfway(self, row, i: int) -> bool:
        """Tell a deployment of which one server had reported and the other one was about to."""
        servers = [
            ((later.get("reply") or {}).get("deployment") or {}).get("servers") or {}
            for later in (row, *self.rows[i + 1 : i + 5])
            if isinstance(later.get("reply"), dict)
        ]
        return len(servers) > 1 and bool(servers[0]) and len(servers[0]) < max(map(len, servers))

    def together(self, row, *, last: bool) -> None:
        """Send one of several starts at once: all that were taken are there before the first file is made."""
        driver, held = self.server.service._driver, bool(self.held)
        if acquisition_of(row.get("reply")) is None:  # it came a moment later, and was refused
            self.created.set()
            self.wait_for(lambda: self.status()["state"] == "WRITING", "the first of several starts")
            self.held.append(self.in_background(row))
        elif not held:
            self.held.append(self.while_creating(row))
        else:
            n_waiting = driver._inbox.qsize()
            self.held.append(self.in_background(row))
            self.wait_for(lambda: driver._inbox.qsize() > n_waiting, "one more start")
        if last:
            self.created.set()
            for thread in self.held:
                thread.join(120)
            self.held.clear()

    def while_creating(self, row) -> threading.Thread:
        """Start in the background, and let the writer create its file until the reply is due."""
        writer, asked = self.server.service.writer, threading.Event()
        send, created = writer.send, self.created

        def hold(command: dict):
            if command["do"] == "start":
                asked.set()
                created.wait(120)
                writer.send = send
            send(command)

        created.clear()
        writer.send = hold
        thread = self.in_background(row)
        assert asked.wait(120), "the start did not reach the writer"
        return thread

    def in_background(self, row) -> threading.Thread:
        thread = threading.Thread(target=self.compare, args=(row,), daemon=True)
        thread.start()
        return thread

    def compare(self, row):
        once, limit = row["request"]["method"] != "GET", Limit(self.patience / 3)
        while True:
            sent = time.monotonic()
            problem = differs(row, self.send(row["request"])) or self.too_quick(row, time.monotonic() - sent)
            if problem is None or once or limit.reached():
                break
        if problem:
            self.problems.append(problem)

    def polls(self, i: int):
        """Compare the states with the polls that follow row `i`, to the end or to the last one.

        Polls see some of the states that there were, in their order.
        """
        polled = []
        for row in self.rows[i + 1 :]:
            if "poll" in row:
                polled.append(row)
            elif "request" in row:
                break
        if not polled:
            return
        recorded = sequence([self.rows[i]["reply"], *(row["reply"] for row in polled)])
        last = acquisition_of(polled[-1]["reply"])
        seen, state = [], polled[-1]["reply"]["writer"]["state"]
        stopped = state == "READY" and last["message"] == "Interrupted."
        if state == "READY" and not stopped:
            if not self.flows:
                self.wait_for(self.source._accepting, "driver subscribed")
            self.source.burst(last["info"]["n_images"] + 5, rate=400.0)
        else:
            self.wait_for(self.source._accepting, "driver subscribed")
            self.images(last["stats"]["n_write_completed"])

        def there():
            seen.append(session.get(self.server.url + "/writer/status", timeout=30).json())
            stats = seen[-1]["writer"]["acquisition"]["stats"]
            enough = stats["n_write_completed"] >= last["stats"]["n_write_completed"]
            if enough and stopped and seen[-1]["writer"]["state"] == "WRITING":
                self.reset()  # by somebody
            return enough and seen[-1]["writer"]["state"] == state

        with requests.Session() as session:
            self.wait_for(there, f"{state}, as polled last", period=0.002)
        got = sequence([self.rows[i]["reply"], *seen])
        left = iter(got)
        if not all(state in left for state in recorded):
            self.problems.append(f"states {got}, recorded {recorded}")
        if masked(seen[-1]) != masked(polled[-1]["reply"]):
            self.problems.append(f"last status {masked(seen[-1])}, recorded {masked(polled[-1]['reply'])}")

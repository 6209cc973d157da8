"""Replay of one recorded scenario against the simulator.

Recordings are selections: what happened between the rows (images, a writer put back to READY, acquisitions of
earlier scenarios) is done here as the rows that follow show it must have been.
"""

from __future__ import annotations

import io
import threading
import time

import requests
from PIL import Image

from . import notes, streams
from .approach import Approach
from .recording import (
    acquisition_of,
    began,
    identity_asked,
    in_order_of_arrival,
    is_together,
    log_of,
    masked,
    running,
    settings_for,
)
from .scene import START

SPEED = 8.0
"""Of the simulator: the recorded 5 s become 0.6 s."""

WAITS = (60.0, 5.0, 0.1)
"""s the service takes for starts and stops: the order of magnitude of a reply's time."""


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
        elif any(_ends(first) > second["t"] + 0.01 for first, second in pairs):
            self.speed = 4.0
        else:
            self.speed = 30.0 if longest > 20 else SPEED
        self.boot = "just started" in str([row.get("note") for row in rows[:1]])
        self.problems: list[str] = []
        self.pending: list[tuple[float, threading.Thread]] = []
        self.created = threading.Event()
        super().__init__(wait_for, speed=self.speed, **settings_for(meta, rows))

    # ---- before the rows ----------------------------------------------------------------------------

    def prime(self):
        """Make the state the scenario began with."""
        if self.boot:
            return
        self.reset()
        starts = [row["request"].get("json") for row in self.rows if _path(row) in START]
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

    def prime_config(self):
        """Store the configuration the scenario began with."""
        for row in self.rows:
            if _path(row) == "/daq/config":
                config = (row.get("reply") or {}).get("config")
                if row["request"]["method"] == "GET" and config:
                    if config != self.server.service.config()[0]:
                        notes.store_config(self, config)
                return

    # ---- the rows -----------------------------------------------------------------------------------

    def run(self):
        self.prime()
        if not any("writer_user_id" in str(row.get("note")) for row in self.rows):
            self.prime_config()
        self.since = streams.ends(self)
        previous = None
        for i, row in enumerate(self.rows):
            if "request" not in row:
                if isinstance(row["note"], dict):
                    notes.check(self, row["note"])
                elif i > 0 or not self.boot:
                    notes.obey(self, row["note"])
                continue
            again = (row["request"], masked(row.get("reply")))
            if "poll" in row or self.is_halfway(row, i) or (again == previous and "/daq/" in _path(row)):
                continue
            previous = again
            self.one(row, i)
        self.created.set()
        for _, thread in self.pending:
            thread.join(30)
        if self.problems:
            raise Mismatch("\n".join(self.problems))

    def one(self, row, i: int):
        """Send the request of one row and compare the reply; in a thread if the next row came before it."""
        if i == 0 or not is_together(self.rows[i - 1], row):
            self.approach(row, self.rows[i:])
        if _path(row) in START:
            self.sent.add(identity_asked(row["request"].get("json")))
        ends = _ends(row)
        following = self.rows[i + 1 : i + 2]
        if following and ends > following[0]["t"] + 0.01:
            if _path(row) == START[0] and _path(following[0]) == "/writer/stop":
                self.pending.append((ends, self.while_creating(row)))
                return
            thread = self.in_background(row)
            self.pending.append((ends, thread))
            gap = (following[0]["t"] - row["t"]) / self.speed
            threading.Event().wait(gap)
            return
        if _path(row) == START[1] and (row.get("reply") or {}).get("status") == "ok":
            thread = self.in_background(row)
            self.help_sync(acquisition_of(row["reply"]))
            thread.join(30)
            return
        for end, thread in self.pending:
            if end < row["t"]:
                self.created.set()
                thread.join(30)
        self.compare(row)
        if _path(row) == START[0] and (row.get("reply") or {}).get("status") == "ok":
            self.polls(i)

    def is_halfway(self, row, i: int) -> bool:
        """Tell a deployment of which one server had reported and the other one was about to."""
        servers = [
            ((later.get("reply") or {}).get("deployment") or {}).get("servers") or {}
            for later in (row, *self.rows[i + 1 : i + 5])
            if isinstance(later.get("reply"), dict)
        ]
        return len(servers) > 1 and bool(servers[0]) and len(servers[0]) < max(map(len, servers))

    def while_creating(self, row) -> threading.Thread:
        """Start in the background, and let the writer create its file until the reply is due."""
        writer, asked = self.server.service.writer, threading.Event()
        send, created = writer.send, self.created

        def hold(command: dict):
            if command["do"] == "start":
                asked.set()
                created.wait(30)
                writer.send = send
            send(command)

        created.clear()
        writer.send = hold
        thread = self.in_background(row)
        assert asked.wait(30), "the start did not reach the writer"
        return thread

    def in_background(self, row) -> threading.Thread:
        thread = threading.Thread(target=self.compare, args=(row,), daemon=True)
        thread.start()
        return thread

    def compare(self, row):
        deadline = time.monotonic() + (10.0 if row["request"]["method"] == "GET" else 0.0)
        while True:
            sent = time.monotonic()
            problem = self.differs(row, self.send(row["request"])) or self.too_quick(
                row, time.monotonic() - sent
            )
            if problem is None or time.monotonic() > deadline:
                break
        if problem:
            self.problems.append(problem)

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

    def differs(self, row, response) -> str | None:
        request, wanted = row["request"], row.get("reply", row.get("reply_text"))
        what = f"{request['method']} {request['path']} {request.get('json', request.get('body', ''))}"
        if response.status_code != row["status_code"]:
            return (
                f"{what}: code {response.status_code}, recorded {row['status_code']}: {response.text[:300]}"
            )
        got_type = response.headers.get("Content-Type", "")
        headers = {k.lower(): v for k, v in (row.get("headers") or {}).items()}
        wanted_type = row.get("content_type") or headers.get("content-type")
        if wanted_type and got_type != wanted_type:
            return f"{what}: type {got_type!r}, recorded {wanted_type!r}"
        if "jpeg_shape" in row:
            return _differs_in_picture(row, response)
        if not isinstance(wanted, dict):
            return None
        got = response.json()
        if "openapi" in wanted:
            wanted, got = set(wanted["paths"]), set(got["paths"])
        if masked(got) != masked(wanted):
            return f"{what}:\n  got      {masked(got)}\n  recorded {masked(wanted)}"
        return None

    def too_quick(self, row, took: float) -> str | None:
        """Tell whether the reply came sooner than the service can, at the simulator's speed."""
        least = next((wait for wait in WAITS if (row.get("elapsed_s") or 0) >= wait), 0.0)
        if (
            _path(row).startswith("/writer/")
            and row["request"]["method"] == "POST"
            and took * self.speed < 0.9 * least
        ):
            return f"{_path(row)}: answered after {took * self.speed:.2f} s, recorded {row['elapsed_s']} s"
        return None

    def polls(self, i: int):
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
            self.problems.append(f"states {got}, recorded {recorded}")
        if masked(seen[-1]) != masked(polled[-1]["reply"]):
            self.problems.append(f"last status {masked(seen[-1])}, recorded {masked(polled[-1]['reply'])}")


def _ends(row) -> float:
    """Return when the reply of a row had come."""
    return row["t"] + (row.get("elapsed_s") or 0)


def _path(row) -> str:
    return row["request"]["path"] if "request" in row else ""


def _differs_in_picture(row, response) -> str | None:
    """Compare one JPEG, or the first one of a stream, with the recorded shape."""
    with response:
        if _path(row) == "/daq/live":
            head = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
            part = next(response.iter_content(2**20))
            if not part.startswith(head):
                return f"live stream: begins with {part[:60]!r}"
            picture = part.removeprefix(head)
        else:
            picture = response.content
    with Image.open(io.BytesIO(picture)) as image:
        shape = [image.height, image.width, len(image.getbands())]
    return (
        None if shape == row["jpeg_shape"] else f"{_path(row)}: picture {shape}, recorded {row['jpeg_shape']}"
    )


def _sequence(replies) -> list[tuple]:
    """Collapse replies to the states they went through."""
    states = []
    for reply in replies:
        acquisition = acquisition_of(reply)
        state = (reply["writer"]["state"], acquisition["state"], acquisition["message"])
        if not states or states[-1] != state:
            states.append(state)
    return states

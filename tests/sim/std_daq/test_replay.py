"""Recordings of a kind that we have none of: made here, of the simulator, and played by the replayer."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import requests

from ..collected import Collected
from .recording import others, read, scenarios
from .replay import Replay
from .scene import RAW, Scene


class Recorder(Scene):
    """A scene whose exchanges are kept in the format of the recordings."""

    def __init__(self, wait_for, scenario: str, dialect: str, **settings):
        super().__init__(wait_for, dialect=dialect, speed=8.0, **settings)
        stack = {"flask": "flask", "fastapi": "fastapi-pydantic2"}[dialect]
        self.lines = [{"meta": {"scenario": scenario, "stack": stack}}]
        self.begun = time.monotonic()

    def t(self) -> float:
        return round((time.monotonic() - self.begun) * 8.0, 3)

    def note(self, what) -> None:
        self.lines.append({"t": self.t(), "note": what})

    def ask(self, method: str, path: str, body=None, **more) -> dict:
        row = {"t": self.t(), "request": {"method": method, "path": path}, **more}
        if body is not None:
            row["request"]["json"] = body
        reply = requests.request(method, self.server.url + path, json=body, timeout=30)
        row["status_code"] = reply.status_code  # how long it took is not for a busy machine to tell
        row["content_type"] = reply.headers.get("Content-Type")
        try:
            row["reply"] = reply.json()
        except ValueError:
            row["reply_text"] = reply.text
        self.lines.append(row)
        return row.get("reply") or {}

    def start(self, name: str, n_images: int, run_id: int) -> dict:
        body = {"n_images": n_images, "output_file": f"{RAW}/{name}.h5", "run_id": run_id}
        return self.ask("POST", "/writer/write_async", body)

    def stop(self) -> dict:
        return self.ask("POST", "/writer/stop", {})

    def look(self, **more) -> dict:
        return self.ask("GET", "/writer/status", **more)

    def take(self, n: int) -> None:
        """Let `n` images be written, unseen."""
        before = self.status()["acquisition"]["stats"]["n_write_completed"]
        self.wait_for(self.source._accepting, "driver subscribed")
        self.images(n)
        n_images = self.status()["acquisition"]["info"]["n_images"]

        def there() -> bool:
            status = self.status()
            whole = status["state"] == "READY" or before + n < n_images
            return whole and status["acquisition"]["stats"]["n_write_completed"] == before + n

        self.wait_for(there, "images")

    def logs(self, n: int = 3) -> dict:
        self.wait_logged()
        return self.ask("GET", f"/daq/logs/{n}")


def interrupted(r: Recorder):
    """s05b: stopped in the middle, seen by polls that show only changes."""
    r.reset()
    r.start("a", 50, 11)
    r.look(poll=0)
    r.take(7)
    r.look(poll=3)
    r.stop()
    r.look()
    r.logs()


def stopped_unseen(r: Recorder):
    """Stopped by a client that was not recorded; then somebody else's acquisition runs."""
    r.reset()
    r.start("a", 50, 11)
    r.take(5)
    r.post("/writer/stop")
    r.look(poll=9)
    r.begin(
        {
            "info": {"n_images": 9, "output_file": f"{RAW}/theirs.h5", "run_id": 12},
            "stats": {"n_write_completed": 2},
        }
    )
    r.look()
    r.start("b", 3, 13)
    r.stop()
    r.logs(2)


def first_failure(r: Recorder):
    """s01b: the first acquisition since the boot cannot create its file."""
    r.reset()
    r.look()
    r.start("isdir", 5, 41)
    r.look()
    r.stop()
    r.look()
    r.logs()
    r.start("good", 2, 42)
    r.take(2)
    r.look()


def writer_dies_idle(r: Recorder):
    """s07c."""
    r.reset()
    r.start("before", 2, 1)
    r.take(2)
    r.look()
    r.server.fail_next("writer_dies")
    r.note("writer process killed with SIGKILL")
    r.look()
    r.start("dies", 500, 2)
    r.look()
    r.stop()
    r.look()
    r.server.service.restart_writer()
    r.note("writer process restarted")
    r.stop()
    r.look()


def writing_service_restarts(r: Recorder):
    """s20."""
    r.reset()
    r.start("a", 30, 5)
    r.take(4)
    r.look()
    r.server.service.restart()
    r.note("REST service restarted while WRITING")
    r.look()
    r.start("b", 3, 6)
    r.stop()
    r.look()
    r.logs()


def config_while_writing(r: Recorder):
    """s08b."""
    r.reset()
    r.ask("GET", "/daq/config")
    r.start("a", 10, 5)
    r.take(3)
    config = {**r.server.service.config()[0], "module_positions": {}, "submodule_info": {}, "bit_depth": 32}
    r.ask("POST", "/daq/config", config)
    r.look()
    r.take(7)
    r.look()
    r.ask("GET", "/daq/config")


def odd_rows(r: Recorder):
    """Paths that nobody lists, null keys, bodies of all kinds, and lines that are no exchange."""
    r.reset()
    r.ask("GET", "/favicon.ico")
    r.ask("GET", "/writer/nosuch", json=None)
    r.ask("PUT", "/writer/status", {"a": None})
    r.ask("POST", "/writer/write_async", {"n_images": None, "output_file": None, "run_id": None})
    r.ask("POST", "/writer/stop", None, headers=None, note=None)
    r.ask("GET", "/daq/stats", poll=None)
    r.lines.append({"t": r.t(), "event": "something", "note": None})
    r.lines.append({"t": r.t()})
    r.note({"something": "seen"})
    r.look(headers=None, elapsed_s=None)


def missed(r: Recorder):
    """s14: one image at 1 kHz is over before the service looks."""
    r.reset()
    r.start("one", 1, 5)
    r.take(1)
    r.look()
    r.server.fail_next("missed_writing", seconds=60)
    r.source.burst(100_000, rate=1000.0)
    r.start("missed", 1, 6)
    r.source.silence()
    r.look()
    r.stop()
    r.logs()


MADE = [
    (interrupted, "flask"),
    (stopped_unseen, "fastapi"),
    (first_failure, "flask"),
    (writer_dies_idle, "fastapi"),
    (writing_service_restarts, "flask"),
    (config_while_writing, "fastapi"),
    (odd_rows, "fastapi"),
    (missed, "flask"),
]


def recorded(scenario, dialect, wait_for) -> list[dict]:
    with Recorder(wait_for, "made here", dialect) as recorder:
        scenario(recorder)
    return recorder.lines


def written(lines: list[dict], folder) -> Path:
    path = folder / "recording.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(("scenario", "dialect"), MADE, ids=lambda v: getattr(v, "__name__", v))
def test_replay_when_a_scenario_was_recorded_then_every_row_is_played_and_the_same(
    scenario, dialect, tmp_path, wait_for, subtests
):
    path = written(recorded(scenario, dialect, wait_for), tmp_path)
    with Replay(*read(path), wait_for) as replay:
        replay.run(subtests)


def test_replay_when_a_row_differs_then_that_one_is_reported_and_the_others_are_played(tmp_path, wait_for):
    lines = recorded(interrupted, "flask", wait_for)
    row = next(line for line in lines if line.get("request", {}).get("path") == "/writer/stop")
    row["reply"] = {**row["reply"], "message": "Writing halted."}
    rows, report = read(written(lines, tmp_path)), Collected()
    with Replay(*rows, wait_for) as replay:
        replay.run(report)
    assert len(report.played) == len(rows[1]) + 2  # what was before, and what was under way
    assert len(report.failed) == 1, report.failed
    ((name, words),) = report.failed
    assert name.endswith("POST /writer/stop") and "Writing halted." in words


def test_recordings_when_no_service_is_named_or_another_one_then_they_are_told_and_not_passed_over(tmp_path):
    for name, meta in {
        "flask": {"stack": "flask"},
        "ws": {"driver": "C++"},
        "old": {"stack": "tornado"},
    }.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"meta": meta}) + "\n")
    assert [path.stem for path in scenarios(tmp_path)] == ["flask"]
    told = {path.stem: why for path, why in others(tmp_path)}
    assert "not tornado" in told.pop("old") and "names no service" in told.pop("ws") and not told

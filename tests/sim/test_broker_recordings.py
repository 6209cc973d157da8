"""The simulated broker gives the recorded replies, and leaves the recorded files and messages behind."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ..conftest import pytest_configure
from .broker_recording import (
    Snapshot,
    comparable,
    compare_effects,
    kinds,
    load,
    normal,
    of_writers_in,
    recordings_in,
    requests_of,
    stamped,
)
from .broker_stage import Stage, trigger_words
from .collected import Collected

DATA = Path(__file__).parent.parent / "data" / "broker"


def pytest_generate_tests(metafunc):
    if "recording" in metafunc.fixturenames:
        folder = metafunc.config.getoption("recordings") or DATA
        metafunc.parametrize("recording", recordings_in(folder), ids=lambda path: path.stem)


def replay(recording, folder, wait_for, subtests) -> None:
    """Play every line of a recording, whatever differs on the way; each is a subtest."""
    first, lines = load(recording)
    flow = any("event" in line for line in lines)
    stage = Stage(first, folder, writers=flow)
    try:
        player = Player(stage, wait_for, flow=flow)
        for line in lines:
            with subtests.test(words_of(line)):
                player.play(line)
        with subtests.test("end"):
            player.finish()
    finally:
        stage.close()


def test_recording_when_replayed_then_same_replies_effects_and_messages(
    recording, tmp_path, wait_for, subtests
):
    replay(recording, tmp_path, wait_for, subtests)


def words_of(line: dict) -> str:
    """Return what a report calls a line."""
    if "request" in line:
        return f"step {line.get('step')}: {line.get('title')}"
    return str(line.get("action") or f"event at {(line.get('event') or {}).get('t')} s")


class Player:
    """Play lines one after the other and compare; after one that differs, wait less for the others."""

    def __init__(self, stage: Stage, wait_for, *, flow: bool):
        self.stage, self._wait_for, self.flow = stage, wait_for, flow
        self.messages: list[dict] = []  # recorded so far, of flows
        self.seen, self._patience = 0, 60

    def wait_for(self, condition, what="condition"):
        try:
            return self._wait_for(condition, what, timeout=self._patience)
        except AssertionError:
            self._patience = 2
            raise

    def play(self, line: dict) -> None:
        line = {key: value for key, value in line.items() if value is not None}
        if "action" in line:
            self.stage.act(line["action"], self.wait_for)
        elif "event" in line:
            self.stage.steps.free = True
            self._event(line["event"])
            self.stage.steps.free = False
        elif "request" in line:
            self._exchange(line)

    def _exchange(self, exchange: dict) -> None:
        before = Snapshot(self.stage.part.site.tree)
        code, headers, reply = self.stage.send(exchange)
        if self.flow and exchange["request"]["method"] == "GET":
            reply = self._poll(exchange, reply)
        where = words_of(exchange)
        assert code == exchange["status_code"], where
        for name, value in exchange.get("headers", {}).items():
            assert headers.get(name) == value, where
        assert comparable(reply) == comparable(exchange.get("reply")), where
        effects = Snapshot(self.stage.part.site.tree).changes_since(before)
        compare_effects(exchange.get("effects", {}), effects, writers=self.flow)
        recorded = exchange.get("amqp", [])
        if self.flow:
            self.messages += recorded
        else:
            published = self.stage.part.messages()[self.seen :]
            self.seen += len(published)
            keys = ("routing_key", "body", "status_headers", "status_routing_key")
            wanted = [{key: normal(message[key]) for key in keys} for message in recorded]
            assert wanted == normal(requests_of(published)), where

    def _poll(self, exchange: dict, reply):
        """Read again until it is as recorded: the recording does not tell how long it waited."""

        def again():
            nonlocal reply
            if comparable(reply) != comparable(exchange.get("reply")):
                self.stage.steps.go_on()
                reply = self.stage.send(exchange)[2]
            return comparable(reply) == comparable(exchange.get("reply"))

        self.wait_for(again, words_of(exchange))
        return reply

    def _event(self, event: dict) -> None:
        if event["event"] == "amqp":
            self.messages.append(event)
            self.wait_for(self._all_published, "recorded messages")
            return
        created, changed = (event.get(key) or {} for key in ("files_created", "files_changed"))
        for name, recorded in (created | changed).items():
            self.wait_for(lambda name=name: self._file(name), f"file {name}")
            if "json" in recorded:
                self.wait_for(
                    lambda name=name, r=recorded: self._holds(name, r["json"]), f"content of {name}"
                )

    def _all_published(self) -> bool:
        return not kinds(self.messages) - kinds(self.stage.part.messages())

    def _file(self, name: str):
        files = Snapshot(self.stage.part.site.tree).files
        return next((path for path in files if stamped(path) == stamped(name)), None)

    def _holds(self, name: str, content) -> bool:
        tree = self.stage.part.site.tree
        paths = [p for p in Snapshot(tree).files if stamped(p) == stamped(name)]
        return any(normal(tree.read_json(path)) == normal(content) for path in paths)

    def finish(self) -> None:
        """In flows: every recorded message came, and no other."""
        if self.flow:
            self.stage.steps.free = True
            self.wait_for(self._all_published, "recorded messages")
            assert kinds(of_writers_in(self.messages, self.stage.part.messages())) == kinds(self.messages)


def test_recordings_when_copied_then_all_are_there():
    assert len(list(DATA.glob("*.jsonl"))) == 33


def test_gate_when_steps_differ_then_all_are_played_and_each_is_reported(tmp_path, wait_for):
    lines = [json.loads(line) for line in (DATA / "03-run-numbers.jsonl").read_text().splitlines()]
    differing = [lines[2], lines[4]]
    for line in differing:
        line["status_code"] = 999
    lines[1] |= {"client_ip": None, "amqp_server": None}
    lines.append({"remark": "a row of no known kind"})
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (recording,), report = recordings_in(tmp_path), Collected()
    replay(recording, tmp_path / "stage", wait_for, report)
    assert [name for name, _ in report.failed] == [words_of(line) for line in differing]
    assert len(report.played) == len(lines), "all but the first, and the end"


def test_gate_when_there_is_nothing_to_replay_then_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("gc.disable", lambda: None)
    with pytest.raises(pytest.UsageError, match="no recordings there"):
        pytest_configure(SimpleNamespace(getoption=lambda name: tmp_path))


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ("nothing of interest", {}),
        ("trigger PV of bernina works and is at 254", {"bernina": "254", "furka": "no such PV"}),
        (
            "trigger PV of alvra is at 255; trigger PV of furka cannot be written",
            {"alvra": "255", "furka": "cannot"},
        ),
        (
            "trigger PVs of alvra and furka are at 255, that of maloja is unreachable",
            {"alvra": "255", "furka": "255", "maloja": "unreachable", "bernina": "no such PV"},
        ),
        ("the trigger PV is at 255", {"alvra": "255", "maloja": "255"}),
    ],
)
def test_note_when_it_tells_of_triggers_then_each_beamline_has_its_own(note, words):
    told = trigger_words(note)
    assert all(word in told[beamline] for beamline, word in words.items())
    assert bool(told) == bool(words)
    if "255, that" in note:
        assert "255" not in told["maloja"] and "unreachable" not in told["alvra"]

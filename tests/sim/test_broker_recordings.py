"""The simulated broker gives the recorded replies, and leaves the recorded files and messages behind."""

from __future__ import annotations

from pathlib import Path

import pytest

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
from .broker_stage import Stage

DATA = Path(__file__).parent.parent / "data" / "broker"


def pytest_generate_tests(metafunc):
    if "recording" in metafunc.fixturenames:
        folder = metafunc.config.getoption("recordings") or DATA
        metafunc.parametrize("recording", recordings_in(folder), ids=lambda path: path.stem)


@pytest.fixture
def stage(recording, tmp_path):
    first, lines = load(recording)
    stage = Stage(first, tmp_path, writers=any("event" in line for line in lines))
    yield stage
    stage.close()


def test_recording_when_replayed_then_same_replies_effects_and_messages(recording, stage, wait_for):
    _, lines = load(recording)
    player = Player(stage, wait_for, flow=any("event" in line for line in lines))
    for line in lines:
        player.play(line)
    player.finish()


class Player:
    """Play lines one after the other and compare."""

    def __init__(self, stage: Stage, wait_for, *, flow: bool):
        self.stage, self.wait_for, self.flow = stage, wait_for, flow
        self.messages: list[dict] = []  # recorded so far, of flows
        self.seen = 0

    def play(self, line: dict) -> None:
        if "action" in line:
            self.stage.act(line["action"], self.wait_for)
        elif "event" in line:
            self._event(line["event"])
        else:
            self._exchange(line)

    def _exchange(self, exchange: dict) -> None:
        before = Snapshot(self.stage.part.site.tree)
        code, headers, reply = self.stage.send(exchange)
        if self.flow and exchange["request"]["method"] == "GET":
            reply = self._poll(exchange, reply)
        where = f"step {exchange['step']}: {exchange['title']}"
        assert code == exchange["status_code"], where
        for name, value in exchange["headers"].items():
            assert headers.get(name) == value, where
        assert comparable(reply) == comparable(exchange["reply"]), where
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
            if comparable(reply) != comparable(exchange["reply"]):
                reply = self.stage.send(exchange)[2]
            return comparable(reply) == comparable(exchange["reply"])

        self.wait_for(again, f"step {exchange['step']}", timeout=20)
        return reply

    def _event(self, event: dict) -> None:
        if event["event"] == "amqp":
            self.messages.append(event)
            self.wait_for(self._all_published, "recorded messages", timeout=20)
            return
        for name, recorded in (event.get("files_created", {}) | event.get("files_changed", {})).items():
            self.wait_for(lambda name=name: self._file(name), f"file {name}", timeout=20)
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
            self.wait_for(self._all_published, "recorded messages", timeout=20)
            assert kinds(of_writers_in(self.messages, self.stage.part.messages())) == kinds(self.messages)


def test_recordings_when_copied_then_all_are_there():
    assert len(list(DATA.glob("*.jsonl"))) == 33

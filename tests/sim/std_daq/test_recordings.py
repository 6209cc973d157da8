"""The simulator gives the recorded replies of the real service, and fills Redis as it did."""

from __future__ import annotations

from pathlib import Path

from . import streams
from .recording import read, scenarios
from .replay import Replay

OWN = Path(__file__).parents[2] / "data" / "std_daq"


def pytest_generate_tests(metafunc):
    if "recording" in metafunc.fixturenames:
        paths = scenarios(metafunc.config.getoption("--recordings") or OWN)
        metafunc.parametrize("recording", paths, ids=[f"{p.parent.name}/{p.stem}" for p in paths])


def test_replies_when_a_recording_is_replayed_then_they_are_the_recorded_ones(recording, wait_for):
    meta, rows = read(recording)
    with Replay(meta, rows, wait_for) as replay:
        replay.run()
        entries = recording.with_name(f"{recording.stem}.redis.jsonl")
        if entries.exists():
            streams.check(replay, replay.since, entries)

"""The simulator gives the recorded replies of the real service, and fills Redis as it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import streams
from .recording import others, read, scenarios
from .replay import Replay

OWN = Path(__file__).parents[2] / "data" / "std_daq"


def pytest_generate_tests(metafunc):
    if "recording" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--recordings") or OWN
        spoken = [pytest.param(path, id=_name(path)) for path in scenarios(folder)]
        passed_over = [
            pytest.param(path, id=_name(path), marks=pytest.mark.skip(why)) for path, why in others(folder)
        ]
        metafunc.parametrize("recording", [*spoken, *passed_over])


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_replies_when_a_recording_is_replayed_then_they_are_the_recorded_ones(recording, wait_for, subtests):
    """Each row is a subtest: what differs in one does not keep the others from being played."""
    meta, rows = read(recording)
    with Replay(meta, rows, wait_for) as replay:
        replay.run(subtests)
        entries = recording.with_name(f"{recording.stem}.redis.jsonl")
        if entries.exists():
            with subtests.test("what reached Redis"):
                streams.check(replay, replay.since, entries)

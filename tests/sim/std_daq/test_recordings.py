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
        unspoken = pytest.mark.skip("the simulator speaks the two REST dialects only")
        paths = [*scenarios(folder), *(pytest.param(path, marks=unspoken) for path in others(folder))]
        names = [f"{path.parent.name}/{path.stem}" for path in (*scenarios(folder), *others(folder))]
        metafunc.parametrize("recording", paths, ids=names)


@pytest.mark.timeout(600)
def test_replies_when_a_recording_is_replayed_then_they_are_the_recorded_ones(recording, wait_for, subtests):
    """Each row is a subtest: what differs in one does not keep the others from being played."""
    meta, rows = read(recording)
    with Replay(meta, rows, wait_for) as replay:
        replay.run(subtests)
        entries = recording.with_name(f"{recording.stem}.redis.jsonl")
        if entries.exists():
            with subtests.test("what reached Redis"):
                streams.check(replay, replay.since, entries)

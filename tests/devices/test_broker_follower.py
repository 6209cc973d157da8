"""Files followed in the background: what they must hold, and when they are opened."""

from __future__ import annotations

import logging
import os
import time
from collections import UserDict
from pathlib import Path

import h5py
import numpy as np
import pytest

from sfdaq_ophyd.devices.broker import _follower
from sfdaq_ophyd.devices.broker._follower import Announced, FileFollower
from sfdaq_ophyd.devices.broker._run import TableRow
from sfdaq_ophyd.wire.broker import log_file


def bsdata(folder: Path, *channels: str) -> Path:
    path = folder / "run0001" / "data" / "acq0001.BSDATA.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for name in channels:
            file[f"{name}/data"], file[f"{name}/pulse_id"] = np.arange(3.0), [10, 11, 12]
    log = Path(log_file(str(path)))
    log.parent.mkdir()
    log.write_text("processing request took 1 seconds\n")
    return path


def announced(path: Path, done: list, **options) -> Announced:
    return Announced(
        0,
        {"BSDATA": path},
        [10, 11, 12],
        10,
        path.parent / "aligned",
        lambda found, failures: done.append((found, failures)),
        names={"BSDATA": ["CH:A", "CH:B"]},
        **options,
    )


def test_channel_when_it_is_not_in_the_file_then_the_file_is_not_what_was_asked_for(tmp_path, wait_for):
    done = []
    FileFollower("sfdaq").follow(announced(bsdata(tmp_path, "CH:A"), done))
    ((found, failures),) = wait_for(lambda: done, "the file given up")
    assert found == []
    assert "'CH:B': found nothing" in next(iter(failures.values()))


def test_channel_when_gaps_are_tolerated_then_the_others_are_taken_and_it_is_told(tmp_path, wait_for, caplog):
    done = []
    with caplog.at_level(logging.WARNING):
        FileFollower("sfdaq").follow(announced(bsdata(tmp_path, "CH:A"), done, gaps={"BSDATA": True}))
        ((found, failures),) = wait_for(lambda: done, "the file checked")
    assert not failures
    assert [(one["key"], one.get("absent")) for one in found] == [
        ("CH:A", None),
        ("CH:B", "is not in the file"),
    ]
    assert "CH:B is not in the file; the run goes on without" in caplog.text


@pytest.mark.parametrize(
    ("noted", "filtered"),
    [({"filtered": ["JF01T03V01"]}, ["JF01T03V01"]), ({"filtered": []}, []), ({}, ["JF01T03V01"])],
)
def test_row_when_written_before_filters_were_noted_then_gaps_that_are_tolerated_say_it(noted, filtered):
    """Then a file that no frame made was no failure where gaps were tolerated."""
    facts = {"index": 0, "expected": {}, "aligned": "", "gaps": {"JF01T03V01": True, "BSDATA": False}}
    row = TableRow(facts | noted)
    assert _follower.announced(None, row, 1.0).filtered == filtered


def test_file_when_its_times_are_an_hour_ahead_then_taken_once_it_stands_still(tmp_path, wait_for):
    path = bsdata(tmp_path, "CH:A", "CH:B")
    Path(log_file(str(path))).unlink()
    os.utime(path, (time.time() + 3600,) * 2)
    done = []
    FileFollower("sfdaq").follow(announced(path, done))
    ((found, failures),) = wait_for(lambda: done, "the file checked")
    assert [row["key"] for row in found] == ["CH:A", "CH:B"] and not failures


def test_last_seen_when_a_file_is_done_meanwhile_then_tells_what_was_known(tmp_path):
    follower = FileFollower("sfdaq")
    one = announced(tmp_path / "a.h5", [])
    one.files["PVDATA"] = tmp_path / "b.h5"

    class DoneMeanwhile(UserDict):
        def get(self, key, default=None):
            one.files.pop("BSDATA", None)
            return default

    one.seen = DoneMeanwhile()
    follower._pending.append(one)
    assert follower.last_seen == "a.h5: not looked at, b.h5: not looked at"


@pytest.mark.parametrize("told", [True, False])
def test_files_when_data_are_asked_for_then_opened_after_it_or_a_moment_later(
    tmp_path, wait_for, monkeypatch, told
):
    monkeypatch.setattr(_follower, "PAUSE", 60.0 if told else 0.01)
    follower, done = FileFollower("sfdaq"), []
    follower.pause()
    follower.follow(announced(bsdata(tmp_path, "CH:A", "CH:B"), done))
    if told:
        assert follower.last_seen.endswith("not looked at")
        follower.resume()
    wait_for(lambda: done, "the file checked")


class SteppedLimit:
    """A limit in a time that the test steps."""

    now = 0.0

    def __init__(self, seconds):
        self.seconds = seconds
        self.restart()

    def restart(self):
        self.begun = self.now

    def reached(self):
        return self.now >= self.begun + self.seconds


@pytest.fixture
def stepped(monkeypatch):
    monkeypatch.setattr(_follower, "Limit", SteppedLimit)
    monkeypatch.setattr(SteppedLimit, "now", 0.0)
    monkeypatch.setattr(FileFollower, "_run", lambda self: None)  # the test looks


def test_file_when_it_grows_then_its_time_begins_anew(tmp_path, stepped):
    follower = FileFollower("sfdaq")
    one = announced(tmp_path / "run0001" / "data" / "acq0001.BSDATA.h5", [])
    follower.follow(one)
    one.files["BSDATA"].parent.mkdir(parents=True)
    for size in range(5):
        one.files["BSDATA"].write_bytes(bytes(size))
        follower._look(one)
        SteppedLimit.now += 9
    assert not one.failures
    follower._look(one)
    SteppedLimit.now += 9
    follower._look(one)
    assert "the time is up, nothing new for 10 s; being written, 4 bytes" in next(iter(one.failures.values()))


def test_file_when_the_one_asked_for_before_it_comes_then_its_time_begins_anew(tmp_path, stepped):
    follower, done = FileFollower("sfdaq"), []
    first = announced(bsdata(tmp_path / "a", "CH:A", "CH:B"), done)
    second = announced(tmp_path / "b.BSDATA.h5", done)
    for one in (first, second):
        follower.follow(one)
    follower._look(second)
    SteppedLimit.now = 9
    follower._look(first)
    assert first.found and not first.files
    SteppedLimit.now = 18
    follower._look(second)
    assert not second.failures
    SteppedLimit.now = 20
    follower._look(second)
    assert second.failures


def test_file_when_only_one_asked_for_later_comes_then_its_time_is_up(tmp_path, stepped):
    follower, done = FileFollower("sfdaq"), []
    first = announced(tmp_path / "a.BSDATA.h5", done)
    second = announced(bsdata(tmp_path / "b", "CH:A", "CH:B"), done)
    for one in (first, second):
        follower.follow(one)
    follower._look(first)
    SteppedLimit.now = 9
    follower._look(second)
    SteppedLimit.now = 11
    follower._look(first)
    assert first.failures

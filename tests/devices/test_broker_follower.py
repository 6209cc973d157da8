"""Files followed in the background: what they must hold, and when they are opened."""

from __future__ import annotations

import logging
import time
from collections import UserDict
from pathlib import Path

import h5py
import numpy as np
import pytest

from sfdaq_ophyd.devices.broker import _follower
from sfdaq_ophyd.devices.broker._follower import Announced, FileFollower
from sfdaq_ophyd.wire.broker_paths import log_file


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
        time.monotonic() + 10,
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
    assert [one["key"] for one in found] == ["CH:A"] and not failures
    assert "no data of CH:B" in caplog.text


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
    monkeypatch.setattr(_follower, "ASIDE", 60.0 if told else 0.01)
    follower, done = FileFollower("sfdaq"), []
    follower.stand_aside()
    follower.follow(announced(bsdata(tmp_path, "CH:A", "CH:B"), done))
    if told:
        assert follower.last_seen.endswith("not looked at")
        follower.go_on()
    wait_for(lambda: done, "the file checked", timeout=5)

"""First-generation detectors, whose images carry neither ids nor time."""

from __future__ import annotations

import bluesky.plans as bp
import pytest

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.wire.simplon_states import DetectorState

from ..run_engine_driver import check_run, drive, interruptible, streams
from .conftest import make_eiger, stamp_of


def rows_of(run):
    return streams(run)["primary"].rows


def test_legacy_detector_when_ids_are_refused_then_the_error_says_what_to_do(make_part, tmp_path):
    eiger = make_eiger(make_part(api_version="1.6.0"), tmp_path)
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "fail" and "legacy_ids" in run.stop["reason"]
    assert eiger.client.state() is DetectorState.IDLE


@pytest.mark.parametrize("plan", ["count", "fly"])
def test_legacy_detector_when_ids_come_from_the_status_then_they_are_true(make_part, tmp_path, plan):
    eiger = make_eiger(make_part(api_version="1.6.0"), tmp_path, legacy_ids="status")
    plans = {"count": lambda: bp.count([eiger], 3), "fly": lambda: fly([eiger], 3, period=0.01)}
    run = drive(interruptible(), plans[plan])
    check_run(run, 3, stamp_of=stamp_of)
    assert all(row["eiger_timestamp"] == row["eiger_receive_time"] for row in rows_of(run))
    data = run.named("descriptor")[0]["configuration"]["eiger"]["data"]
    assert (data["eiger_timestamp_source"], data["eiger_legacy_ids"]) == ("host", "status")


def test_legacy_detector_when_frames_are_counted_here_then_the_ids_say_so(make_part, tmp_path):
    part = make_part(api_version="1.6.0")
    eiger = make_eiger(part, tmp_path, legacy_ids="local")
    run = drive(interruptible(), lambda: bp.count([eiger], 3))
    ids = [row["eiger_event_id"] for row in rows_of(run)]
    assert ids == ["local_1_0", "local_1_1", "local_1_2"]
    check_run(run, 3, stamp_of=lambda name: stamp_of(name.removeprefix("local_")))


def test_legacy_ids_when_the_choice_is_unknown_then_request_error(part, tmp_path):
    with pytest.raises(RequestError, match="legacy_ids"):
        make_eiger(part, tmp_path, legacy_ids="guess")

"""Which time the timestamp of a frame is: that which the run's configuration says."""

from __future__ import annotations

import re

import bluesky.plans as bp
import pytest

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.eiger import frames
from sfdaq_ophyd.wire.tiff_write import frame_around

from ..run_engine_driver import check_run, drive, interruptible
from .conftest import make_eiger, stamp_of
from .stream_line import rows_of


def source_of(run):
    return run.named("descriptor")[0]["configuration"]["eiger"]["data"]["eiger_timestamp_source"]


def is_of_receipt(run):
    return [row["eiger_timestamp"] == row["eiger_receive_time"] for row in rows_of(run)]


def readout_of(part, readout):
    return {"readout": readout} | ({"stream": part.stream_endpoint} if readout == "stream" else {})


@pytest.mark.parametrize("readout", ["monitor", "stream"])
@pytest.mark.parametrize("source", ["detector", "host"])
def test_timestamp_when_a_source_is_chosen_then_it_is_of_that_one(part, tmp_path, caplog, readout, source):
    eiger = make_eiger(part, tmp_path, **readout_of(part, readout))
    eiger.timestamp_source.put(source)
    run = drive(interruptible(), lambda: bp.count([eiger], 3))
    check_run(run, 3, stamp_of=stamp_of)
    assert source_of(run) == source and is_of_receipt(run) == [source == "host"] * 3
    assert "time of receipt" not in caplog.text


def test_timestamp_when_ids_are_from_elsewhere_and_images_have_a_time_then_as_the_configuration_says(
    part, tmp_path
):
    eiger = make_eiger(part, tmp_path, legacy_ids="status")
    run = drive(interruptible(), lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    assert source_of(run) == "host" and is_of_receipt(run) == [True, True]


def test_timestamp_when_the_detectors_is_wanted_and_there_is_none_then_told_once_per_series(
    make_part, tmp_path, caplog
):
    eiger = make_eiger(make_part(api_version="1.6.0"), tmp_path, legacy_ids="status")
    eiger.timestamp_source.put("detector")
    run = drive(interruptible(), lambda: bp.count([eiger], 3))
    check_run(run, 3, stamp_of=stamp_of)
    assert is_of_receipt(run) == [True] * 3
    assert caplog.text.count("eiger: frames of series 1 carry no time of the detector") == 1


@pytest.mark.parametrize("policy", ["strict", "tolerant"])
def test_timestamp_when_that_of_one_image_is_unreadable_then_the_image_is_marked_or_the_point_fails(
    part, tmp_path, monkeypatch, policy
):
    def around(shape, bits, profile, tags):
        before, after = frame_around(shape, bits, profile, tags)
        spoil = re.compile(rb"\d{4}(-\d\d-\d\dT)")
        if tags.image_id == 1:
            before, after = (spoil.sub(rb"\0\0\0\0\1", bytes(part_of_it)) for part_of_it in (before, after))
        return before, after

    monkeypatch.setattr(frames, "frame_around", around)
    eiger = make_eiger(part, tmp_path)
    eiger.loss_policy.put(policy)
    run = drive(interruptible(), lambda: bp.count([eiger], 3))
    if policy == "strict":
        assert run.stop["exit_status"] == "fail" and "_1 carries no time" in run.stop["reason"]
        return
    check_run(run, 3, stamp_of=stamp_of)
    assert is_of_receipt(run) == [False, True, False]
    assert [bool(row["eiger_is_good"]) for row in rows_of(run)] == [True, False, True]


def test_timestamp_when_a_message_of_the_stream_has_no_date_then_told_once_per_series(part, tmp_path, caplog):
    eiger = make_eiger(part, tmp_path, **readout_of(part, "stream"))
    for image_id in (1, 2):
        part.fail_next("missing_field", image_id=image_id)
    run = drive(interruptible(), lambda: fly([eiger], 4, period=0.01))
    check_run(run, 4, stamp_of=stamp_of)
    assert is_of_receipt(run) == [False, True, True, False]
    assert caplog.text.count("carry no time of the detector: theirs is the time of receipt") == 1


def test_timestamp_when_of_receipt_and_images_come_in_files_then_refused_by_name(part, make_writer):
    eiger = make_writer()
    eiger.timestamp_source.put("host")
    with pytest.raises(RequestError, match="eiger.timestamp_source='host': expected 'detector' where frames"):
        eiger.stage()


def test_timestamp_source_when_ids_are_chosen_for_a_readout_that_has_them_then_it_is_the_detector(
    part, tmp_path
):
    eiger = make_eiger(part, tmp_path, readout="filewriter", legacy_ids="status")
    assert eiger.timestamp_source.get() == "detector"
    eiger.client.close()

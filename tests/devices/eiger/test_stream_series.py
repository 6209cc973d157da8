"""Which images of the Eiger's stream are of a series: none of another one, none too many; its tables."""

from __future__ import annotations

import threading

import bluesky.plans as bp
import h5py
import numpy as np
import pytest

from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.wire import cbor
from sfdaq_ophyd.wire.eiger_stream import SeriesImage, SeriesStart
from sfdaq_ophyd.wire.simplon import Parameter

from ..run_engine_driver import check_run, drive, interruptible, streams
from .conftest import check_as_found, stamp_of
from .stream_line import Lost, as_it_is, fly_scan, rows_of


@pytest.fixture
def eiger(streamed):
    return streamed


def test_step_when_the_first_start_is_lost_then_the_tables_of_a_later_series_are_kept_once(part, line, eiger):
    eiger.n_triggers.put(1)
    line.change = Lost("start", count=1)
    run = drive(interruptible(), lambda: bp.count([eiger], 4))
    check_run(run, 4, stamp_of=stamp_of)
    first, *others = (where[0] for where in streams(run)["primary"].images["eiger_image"])
    assert len(set(others)) == 1
    with h5py.File(first) as file:
        assert "instrument" not in file["entry"]
    with h5py.File(others[0]) as file:
        detector = file["entry/instrument/detector"]
        assert [uid.decode() for uid in detector["series_uid"]] == [rows_of(run)[1]["eiger_series_uid"]]
        np.testing.assert_array_equal(
            detector["pixel_mask/threshold_1"][0], eiger.client.get_array("pixel_mask")
        )


def test_fly_when_an_image_is_numbered_beyond_the_series_then_warned_of_counted_and_not_taken(
    part, line, eiger, caplog
):
    def more(message, data):
        if not isinstance(message, SeriesImage) or message.image_id != 3:
            return [data]
        fields = cbor.decode(data)
        fields["series_date"] = cbor.Date(fields["series_date"])
        return [data, *(cbor.encode(fields | {"image_id": k}) for k in (6, 7))]

    line.change = more
    run = drive(interruptible(), fly_scan(eiger))
    check_run(run, 6, stamp_of=stamp_of)
    assert [row["eiger_event_id"].split("_")[1] for row in rows_of(run)] == list("012345")
    assert eiger.source.stream.counters["beyond"] == 2
    assert caplog.text.count("image 6 of series") == 1 and "image 7" not in caplog.text


def test_point_when_an_image_of_another_series_comes_between_then_dropped_and_counted(part, line, eiger):
    kept = []

    def keep(message, data):
        if isinstance(message, SeriesImage):
            kept.append(data)
        return [data]

    line.change = keep
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    line.change = lambda message, data: [data, kept[0]] if isinstance(message, SeriesStart) else [data]
    run = drive(interruptible(), lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    assert [row["eiger_n_stale"] for row in rows_of(run)] == [1, 1]


def test_point_when_only_images_of_another_series_come_and_fast_then_it_ends_in_its_time(part, line, eiger):
    """Nothing is quiet, and nothing comes."""
    kept, over = [], threading.Event()
    eiger.source.stream.subscribe(kept.append)
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)

    def flood():
        while not over.wait(0.02):
            eiger.source._events.put(kept[0])

    others = threading.Thread(target=flood, daemon=True)
    others.start()
    line.change = Lost(0)
    eiger.timeout.put(1.0)
    eiger.loss_policy.put("tolerant")
    try:
        run = drive(interruptible(), lambda: bp.count([eiger]))
    finally:
        over.set()
        others.join()
    check_run(run, 1, stamp_of=stamp_of)
    (row,) = rows_of(run)
    assert row["eiger_n_missing"] == 1 and row["eiger_n_stale"] > 1


def test_fly_when_the_unit_restarts_in_between_then_told_and_the_next_run_is_right(part, line, eiger):
    def restart(message, data):
        if isinstance(message, SeriesImage) and message.image_id == 2:
            line.change = as_it_is
            part.restart()
        return [data]

    line.change = restart
    run = drive(interruptible(), lambda: fly([eiger], 200, period=0.01))
    assert run.stop["exit_status"] == "fail" and "restarted" in run.stop["reason"]
    eiger.exposure_time.put(0.002)
    run = drive(interruptible(), fly_scan(eiger))
    check_run(run, 6, stamp_of=stamp_of)
    check_as_found(part, eiger.client)


def test_run_when_an_earlier_point_was_given_up_then_none_of_its_frames_is_in_it(part, line, eiger, wait_for):
    late = []

    def hold_back(message, data):
        if isinstance(message, SeriesImage):
            late.append(data)
            return []
        return [data]

    line.change = hold_back
    eiger.frames_per_trigger.put(20)
    eiger.stage()
    eiger.trigger()
    wait_for(lambda: late, "an image")
    eiger.pause()
    eiger.unstage()
    line.change = lambda message, data: [data, *late] if isinstance(message, SeriesStart) else [data]
    eiger.frames_per_trigger.put(1)
    run = drive(interruptible(), lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    assert [row["eiger_n_stale"] for row in rows_of(run)] == [len(late)] * 2


def test_run_when_numbers_begin_anew_and_no_unique_id_is_told_then_old_frames_are_known_by_their_own(
    part, line, eiger
):
    kept = []

    def keep(message, data):
        if isinstance(message, SeriesImage):
            kept.append(data)
        return [data]

    def after_start(message, data):
        return [data, kept[0]] if isinstance(message, SeriesStart) else [data]

    ids = []
    for change in (keep, after_start):
        part.restart()
        line.change = change
        part.fail_next("error", path="series_unique_id", code=404, count=2)
        run = drive(interruptible(), fly_scan(eiger, 3))
        check_run(run, 3, stamp_of=stamp_of)
        ids.append([row["eiger_event_id"] for row in rows_of(run)])
    assert ids[0] == ids[1] == ["1_0", "1_1", "1_2"]
    assert eiger.n_stale.get() == 1 and not part.faults.armed
    eiger.exposure_time.put(0.002)


@pytest.mark.parametrize("told", ["01AN4Z07BY79KA1307SR9X4MV3", "x" * 100_000, 7])
def test_run_when_the_unique_id_told_is_not_yet_that_of_the_series_then_frames_are_known_by_their_own(
    part, eiger, told
):
    ask = eiger.client.get

    def answer(module, task, name, *args):
        return Parameter(told) if name == "series_unique_id" else ask(module, task, name, *args)

    eiger.client.get = answer
    run = drive(interruptible(), lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    assert {row["eiger_series_uid"] for row in rows_of(run)} == {next(reversed(eiger.source.stream.series))}

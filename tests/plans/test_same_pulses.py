"""All pulse-aware devices of a point take the same pulses: a live Jungfrau, a second one, and the broker."""

from __future__ import annotations

import re
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd.devices import Jungfrau, PulseWindow, SfDaqBroker, StdDaqWriter
from sfdaq_ophyd.errors import DetectorStateError
from sfdaq_ophyd.plans import fly, run_number_wrapper, same_pulses, sf_scan
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.wire.frame import Frame, MissingFrame

from ..devices.broker_bench import ClockPulseId
from ..devices.run_engine_driver import drive, interruptible, streams

NAME = "JF03T01V02"
RATE = 4
SPAN = ("sfdaq_start_pulse_id", "sfdaq_stop_pulse_id")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("facility")


@pytest.fixture(scope="module")
def facility(directory):
    """One module at 25 Hz: as a live stream, and behind the broker."""
    with Facility(
        speed="auto",
        only=["jungfrau", "broker", "std_daq"],
        directory=directory,
        jungfrau_name=NAME,
        jungfrau_rate_multiplicator=RATE,
        broker_delays=0.002,
        broker_running=[NAME],
        broker_pedestal_frames=2,
    ) as facility:
        yield facility


@pytest.fixture
def pulse_id(facility):
    pulse_id = ClockPulseId(facility.clock)
    yield pulse_id
    pulse_id.close()


@pytest.fixture
def sfdaq(facility, pulse_id, tmp_path):
    facility.broker.make_pgroup("p20001")
    return SfDaqBroker(
        facility.broker.url,
        name="sfdaq",
        pgroup="p20001",
        detectors=[NAME],
        channels=["CH:A"],
        n_pulses=2,
        rate_multiplicator=RATE,
        pulse_id=pulse_id,
        beamline="bernina",
        sf_root=facility.broker.root,
        directory=tmp_path / "runs",
    )


@pytest.fixture
def live(facility, pulse_id, tmp_path):
    def make(name="jf", **options):
        endpoints = facility.jungfrau.endpoints
        return Jungfrau(
            endpoints, name=name, directory=tmp_path, detector_name=NAME, pulse_id=pulse_id, **options
        )

    yield make
    facility.jungfrau.clear_faults()


@pytest.fixture
def motor():
    return SynAxis(name="motor")


def rows_of(run):
    assert run.error is None, run.error
    return streams(run)["primary"].rows


def check_same(rows, names=("jf",), n=1):
    """The live frames are the first of the range the broker was asked for."""
    for row in rows:
        first, last = (row[key] for key in SPAN)
        asked = list(range(first, last + 1, RATE))
        for name in names:
            assert np.atleast_1d(row[f"{name}_pulse_id"]).tolist() == asked[:n], row


@pytest.mark.parametrize("order", ["live first", "broker first"])
def test_scan_when_broker_and_live_stream_are_read_then_each_point_has_the_same_pulses(
    live, sfdaq, motor, order
):
    devices = [live(), sfdaq] if order == "live first" else [sfdaq, live()]
    rows = rows_of(drive(interruptible(), lambda: sf_scan(devices, motor, 0, 1, 5)))
    assert len(rows) == 5
    check_same(rows)
    firsts = [row[SPAN[0]] for row in rows]
    assert firsts == sorted(set(firsts)) and not any(first % RATE for first in firsts)


def test_scan_when_live_frames_are_several_then_all_lie_in_the_window(live, sfdaq, motor):
    jf = live()
    jf.frames_per_trigger.put(2)
    sfdaq.n_pulses.put(3)
    rows = rows_of(drive(interruptible(), lambda: sf_scan([jf, sfdaq], motor, 0, 1, 3)))
    assert len(rows) == 3
    check_same(rows, n=2)


def losing_one(jf):
    """Have the device lose the second frame it is sent, once."""
    take, lost = jf.source.frames, []

    def frames(request):
        n_frames = 0
        for item in take(request):
            n_frames += isinstance(item, Frame)
            if n_frames == 2 and not lost:
                lost.append(item.pulse_id)
                yield MissingFrame("as the test wants")
            else:
                yield item

    jf.source.frames = frames
    return lost


def test_scan_when_the_live_stream_takes_a_point_again_then_the_broker_asks_for_the_new_pulses(
    live, sfdaq, motor
):
    jf = live()
    jf.frames_per_trigger.put(2)
    jf.loss_policy.put("retake")
    lost = losing_one(jf)
    run = drive(interruptible(), lambda: sf_scan([sfdaq, jf], motor, 0, 1, 2))
    rows = rows_of(run)
    check_same(rows, n=2)
    assert lost[0] not in range(rows[0][SPAN[0]], rows[0][SPAN[1]] + 1)
    assert [row["sfdaq_acquisition_number"] for row in rows] == [1, 2], "asked for once per point"


def test_scan_when_paused_at_any_message_then_each_point_has_the_same_pulses(live, sfdaq, motor, tmp_path):
    def plan():
        return sf_scan([jf, sfdaq, other], motor, 0, 1, 2)

    jf, other, sfdaq.check = live(), live("other"), False
    quiet = drive(interruptible(True), plan)
    last = len(quiet.commands) - 1 - quiet.commands[::-1].index("close_run")
    kept = 0
    for at in range(quiet.commands.index("trigger") - 3, last, 5):
        run = drive(interruptible(True), plan, "pause", at)
        where = f"at {at} ({quiet.commands[at]})"
        assert run.error is None, (where, run.error)
        found = streams(run)
        rows = found["primary"].rows
        assert len(rows) == 2, where
        check_same(rows, ("jf", "other"))
        numbers = [row["sfdaq_acquisition_number"] for row in rows]
        data = found["sfdaq_data"].rows
        assert [row["sfdaq_acquisition_number"] for row in data] == numbers, where
        kept += "sfdaq_unused" in found
    assert kept, "an acquisition that was asked for before a pause is told, though no event has it"


def test_count_when_two_streams_are_live_then_both_and_the_broker_have_the_same_pulses(live, sfdaq):
    devices = [live("a"), sfdaq, live("b")]
    rows = rows_of(drive(interruptible(), lambda: run_number_wrapper(bp.count(devices, 4), sfdaq)))
    check_same(rows, ("a", "b"))
    rows = rows_of(drive(interruptible(), lambda: same_pulses(bp.count([devices[0], devices[2]], 4))))
    assert [row["a_pulse_id"] for row in rows] == [row["b_pulse_id"] for row in rows]


def test_count_when_a_live_stream_is_slower_then_each_point_begins_at_a_pulse_of_both(live):
    every = 2 * RATE
    a, b = live("a"), live("b", rate_multiplicator=every)
    rows = rows_of(drive(interruptible(), lambda: same_pulses(bp.count([a, b], 5))))
    assert [row["a_pulse_id"] for row in rows] == [row["b_pulse_id"] for row in rows]
    assert not any(row["a_pulse_id"] % every for row in rows)
    rows = rows_of(drive(interruptible(), lambda: bp.count([b], 5)))
    assert not any(row["b_pulse_id"] % every for row in rows)


def losing_on_the_way(jf):
    """Have a frame of a point, neither its first nor its last, be lost before the device sees it."""
    subscribe, lost = jf.source.stream.subscribe, []

    def losing(put):
        def take(frame):
            window, pulse_id = jf.source.window, getattr(frame, "pulse_id", None)
            if frame and not lost and window and window._fixed and pulse_id > window.first:
                lost.append(pulse_id)
            if pulse_id not in lost:
                put(frame)

        return subscribe(take)

    jf.source.stream.subscribe = losing
    return lost


@pytest.mark.parametrize(
    ("policy", "lose", "reason"),
    [
        ("retake", losing_on_the_way, ""),
        ("strict", losing_on_the_way, "b: .* another live device takes the point again"),
        ("retake", losing_one, "a: the point cannot be taken again here alone: b has the same pulses"),
    ],
)
def test_count_when_one_of_two_live_streams_loses_a_frame_then_both_take_the_point_again_or_none(
    live, sfdaq, policy, lose, reason
):
    """What is found out once the last frames were handed on comes too late for the other one."""
    a, b = live("a"), live("b")
    for device in (a, b):
        device.frames_per_trigger.put(3 if lose is losing_on_the_way else 2)
        device.loss_policy.put("retake")
    b.loss_policy.put(policy)
    lost = lose(a)
    sfdaq.n_pulses.put(3)
    run = drive(interruptible(), lambda: run_number_wrapper(bp.count([a, sfdaq, b], 2), sfdaq))
    assert lost
    if reason:
        assert re.search(reason, str(run.error))
        return
    rows = rows_of(run)
    check_same(rows, ("a", "b"), n=3)
    assert len(rows) == 2 and lost[0] < rows[0]["a_pulse_id"][0]
    assert [row["sfdaq_acquisition_number"] for row in rows] == [1, 2], "asked for once per point"


def test_scan_when_the_live_stream_is_inside_a_writer_then_it_shares_pulses_with_the_broker(
    facility, directory, live, sfdaq, motor
):
    writer = StdDaqWriter(facility.std_daq.url, name="writer", directory=directory, detectors=[live()])
    rows = rows_of(drive(interruptible(), lambda: sf_scan([writer, sfdaq], motor, 0, 1, 2)))
    assert len(rows) == 2
    check_same(rows)


def test_fly_when_the_broker_is_among_the_detectors_then_it_takes_as_many_points(live, sfdaq):
    run = drive(interruptible(), lambda: run_number_wrapper(fly([live(), sfdaq], 4)))
    rows = rows_of(run)
    firsts = [row[SPAN[0]] for row in rows]
    assert np.diff(firsts).tolist() == [2 * RATE] * 3 and len({row["jf_pulse_id"] for row in rows}) == 4
    (data,) = streams(run)["sfdaq_data"].rows
    assert [data[key] for key in SPAN] == [firsts[0], rows[-1][SPAN[1]]]


def test_trigger_when_groups_differ_then_later_ones_have_later_pulses(live, sfdaq):
    """What is triggered after a wait, or after a move, never takes pulses of before."""
    jf = live()

    @bpp.stage_decorator([jf, sfdaq])
    @bpp.run_decorator()
    def plan():
        for first, second in ((jf, sfdaq), (sfdaq, jf)):
            yield from bps.trigger(first, group="same name", wait=True)
            yield from bps.trigger(second, group="same name", wait=True)
            yield from bps.create()
            yield from bps.read(jf)
            yield from bps.read(sfdaq)
            yield from bps.save()

    rows = rows_of(drive(interruptible(), lambda: run_number_wrapper(plan(), sfdaq)))
    assert rows[0]["jf_pulse_id"] < rows[0][SPAN[0]]
    assert rows[1]["jf_pulse_id"] > rows[1][SPAN[1]]


def test_scan_when_no_plan_shares_windows_then_each_takes_pulses_after_its_trigger(live, sfdaq, motor):
    rows = rows_of(drive(interruptible(), lambda: bp.scan([live(), sfdaq], motor, 0, 1, 2)))
    assert len(rows) == 2
    assert rows[0][SPAN[1]] < rows[1]["jf_pulse_id"]


def window(now=1000, every=1, live=("jf",)):
    window = PulseWindow()
    for name in live:
        window.join(name, pulse_id := SimpleNamespace(prefix="PV", get=lambda: now), live=True)
    window.join("sfdaq", pulse_id, every=every)
    return window


def test_window_when_the_pv_lags_behind_the_stream_then_no_frame_that_was_let_go_is_in_it():
    w = window()
    w.attempt("jf")
    assert not w.admits(1007), "the other devices are not triggered yet"
    w.trigger()
    assert w.first == 1008 and w.admits(1008)


def test_window_when_one_has_let_a_frame_go_before_it_listened_then_the_other_takes_none_of_that_pulse():
    w = window(live=("a", "b"))
    w.attempt("a")
    w.attempt("b", 1003)
    w.trigger()
    assert not w.admits(1003) and w.admits(1004), "a, whose thread is behind, has 1003 waiting"


def test_window_when_a_live_device_is_slow_to_listen_then_none_takes_a_frame_before():
    w = window(live=("a", "b"))
    w.attempt("a")
    w.trigger()
    assert not w.admits(1003)
    w.attempt("b")
    assert not w.admits(1003) and w.admits(1004) and w.admits(1005)


def test_window_when_devices_are_slower_than_the_machine_then_it_begins_at_a_pulse_of_all():
    w = window(every=8)
    w.join("other", SimpleNamespace(prefix="PV"), every=20)
    w.attempt("jf")
    w.trigger()
    assert w.first == 1040
    assert not w.admits(1044), "not of the others"
    assert w.admits(1080) and w.first == 1080, "the first frame that is there"
    assert w.pulses(3, 8).last == 1096


def test_window_when_two_are_live_then_none_takes_the_point_again_alone():
    w = window(live=("a", "b"))
    take = w.attempt("a")
    assert take == w.attempt("b") == 0
    w.trigger()
    assert w.admits(1004) and not w.wait_for_others("b", take, 0)
    assert w.attempt("a") == 1 and not w.goes_on(take)
    assert w.wait_for_others("b", take, 0), "it is not told any more to keep its frame back"
    assert not w.admits(1008), "b listens for pulses of before"
    assert w.attempt("b") == 1 and w.admits(1009)
    w.settle("b")
    with pytest.raises(DetectorStateError, match="a: .* b has the same pulses"):
        w.attempt("a")


def test_window_when_a_writer_is_around_a_live_device_then_its_point_may_be_taken_again():
    w = window()
    w.hold("writer")
    w.attempt("jf")
    w.trigger()
    assert w.admits(1001)
    w.settle("jf")
    assert w.awaits("jf"), "the writer is not done"
    w.attempt("jf")
    assert not w.admits(1001) and w.first == 1002
    w.settle("jf")
    w.settle("writer")
    assert not w.awaits("jf")


def test_window_when_another_machine_counts_then_it_is_not_shared():
    w = window()
    assert w.join("far", SimpleNamespace(prefix="OTHER", get=lambda: 5)) is not w
    assert w.join("near", SimpleNamespace(prefix="PV")) is w


def test_stage_when_the_run_before_was_aborted_then_no_other_device_of_that_run_is_waited_for(
    facility, live, sfdaq, tmp_path
):
    jf, other, window = live(), live("other"), PulseWindow()
    jf.stage()
    jf.next_window.set(window)
    other.next_window.set(window)
    jf.trigger()
    jf.unstage()
    writer = StdDaqWriter(facility.std_daq.url, name="writer", directory=tmp_path, detectors=[jf])
    for device in (jf, sfdaq, writer):
        device.next_window.set(window)
    for device in (sfdaq, writer):  # which stages the live one
        device.stage()
    try:
        assert [device.next_window.current for device in (jf, sfdaq, writer)] == [None] * 3
        jf.trigger().wait(60)
    finally:
        for device in (sfdaq, writer):
            device.unstage()

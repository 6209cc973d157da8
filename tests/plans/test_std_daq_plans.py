"""Plans of the standard DAQ as message lists; nothing is contacted."""

from __future__ import annotations

from dataclasses import dataclass

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.simulators import RunEngineSimulator
from ophyd.sim import SynAxis

from sfdaq_ophyd.devices import SfDaqBroker, StdDaqWriter
from sfdaq_ophyd.plans import configure_daq, fly, run_number_wrapper, std_daq_wrapper, write_images

from ..devices.fake import FakeDetector


@dataclass
class FlyMotorInfo:
    """With which a motor of ophyd-async is prepared."""

    start_position: float
    end_position: float
    time_for_move: float


@pytest.fixture
def writer(tmp_path):
    return StdDaqWriter("http://127.0.0.1:9", name="writer", directory=tmp_path)


@pytest.fixture
def camera(tmp_path):
    return FakeDetector(name="camera", directory=tmp_path)


def said(plan):
    """Return the messages of a plan as text: command and device."""
    messages = RunEngineSimulator().simulate_plan(plan)
    return [f"{msg.command} {getattr(msg.obj, 'name', '')}".strip() for msg in messages]


def in_order(messages, *wanted):
    """Check that messages come in this order, whatever is between; return where the last one is."""
    at = -1
    for message in wanted:
        assert message in messages[at + 1 :], f"{message} after {messages[: at + 1]}"
        at = messages.index(message, at + 1)
    return at


def test_wrapper_when_a_point_is_taken_then_the_writer_is_open_first_and_read_into_the_event(writer, camera):
    messages = said(std_daq_wrapper(bp.count([camera], 2), writer))
    point = (
        "trigger writer",
        "set writer_armed",
        "wait",
        "trigger camera",
        "read camera",
        "read writer",
        "save",
    )
    in_order(messages, "stage writer", "open_run", *point, *point, "close_run", "unstage writer")
    assert messages.count("trigger writer") == 2


def test_wrapper_when_several_detectors_are_triggered_then_it_writes_one_file(writer, camera, tmp_path):
    other = FakeDetector(name="other", directory=tmp_path)
    messages = said(std_daq_wrapper(bp.count([camera, other], 1), writer))
    in_order(messages, "trigger writer", "trigger camera", "trigger other", "read writer", "save")
    assert messages.count("trigger writer") == 1


def test_wrapper_when_nothing_is_triggered_for_an_event_then_it_is_left_alone(writer, camera):
    @bpp.run_decorator()
    def plan():
        yield from bps.create("baseline")
        yield from bps.read(camera)
        yield from bps.save()

    assert not any("writer" in message for message in said(std_daq_wrapper(plan(), writer))[1:-1])


def test_wrapper_when_a_detector_flies_then_the_run_closes_after_the_writers_file(writer, camera):
    messages = said(std_daq_wrapper(fly([camera], 5), writer))
    last = in_order(
        messages,
        *("stage writer", "open_run", "declare_stream", "prepare writer", "kickoff writer", "wait"),
        *(
            "kickoff camera",
            "collect camera",
            "collect writer",
            "complete writer",
            "collect writer",
            "close_run",
        ),
        "unstage writer",
    )
    assert last == len(messages) - 1


def test_wrapper_when_a_broker_takes_the_points_then_only_the_motor_is_an_axis(writer, camera, tmp_path):
    broker = SfDaqBroker(
        "http://127.0.0.1:9", name="sfdaq", pgroup="p20001", directory=tmp_path, pulse_id=object()
    )
    for plan, axes in (
        (bp.scan([broker, camera], SynAxis(name="motor"), 0, 1, 3), ["motor"]),
        (bp.count([broker], 3), []),
    ):
        plan = run_number_wrapper(std_daq_wrapper(plan, writer), broker)
        messages = RunEngineSimulator().simulate_plan(plan)
        points = [msg.args[0] for msg in messages if msg.command == "set" and msg.obj is broker.next_point]
        assert [list(point.values) for point in points if point] == [axes] * 3


@pytest.mark.parametrize(
    "other", [{"exposure_time": 0.01}, FlyMotorInfo(start_position=0, end_position=1, time_for_move=1), 0.5]
)
def test_wrapper_when_other_devices_are_prepared_too_then_it_takes_the_points_of_the_detector(
    writer, camera, tmp_path, other
):
    device = FakeDetector(name="device", directory=tmp_path)

    @bpp.run_decorator()
    def plan(prepared):
        for obj, value in prepared:
            yield from bps.prepare(obj, value, wait=True)
        yield from bps.kickoff(camera, wait=True)

    for n_points in (100, {"n_points": 100}, 100.0, np.int64(100)):
        for prepared in ([(camera, n_points), (device, other)], [(device, other), (camera, n_points)]):
            messages = RunEngineSimulator().simulate_plan(std_daq_wrapper(plan(prepared), writer))
            told = [msg.args for msg in messages if msg.command == "prepare" and msg.obj is writer]
            assert told == [(100,)]
    messages = said(std_daq_wrapper(plan([(device, other)]), writer))
    assert "prepare writer" not in messages and "kickoff writer" in messages


def test_write_images_when_it_runs_then_frames_per_trigger_is_put_back(writer):
    messages = said(bpp.run_wrapper(write_images(writer, 50)))
    in_order(
        messages,
        *("set writer_frames_per_trigger", "stage writer", "trigger writer", "read writer", "save"),
        *("unstage writer", "set writer_frames_per_trigger"),
    )


def test_configure_daq_when_it_runs_then_it_waits_for_the_change(writer):
    assert said(configure_daq(writer, bit_depth=32)) == ["set writer_daq_config", "wait"]

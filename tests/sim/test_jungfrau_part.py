"""The whole part: child process, sockets, real time. Read by our client, and by OM's way of receiving."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import zmq

from sfdaq_ophyd.clients import ImageStream, ModuleStream
from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire.detector_name import DaqRec


@pytest.fixture(scope="module")
def facility():
    options = {"jungfrau_name": "JF04T02V01", "jungfrau_rate_multiplicator": 4}
    with Facility(speed="auto", only=["jungfrau"], **options) as facility:
        facility.jungfrau.scene.raw(0)
        yield facility


@pytest.fixture
def part(facility):
    yield facility.jungfrau
    if not facility.jungfrau.status()["running"]:
        facility.jungfrau.start_acquisition()


def take(queue, n):
    return [queue.get(60) for _ in range(n)]


def take_joined(queue, n):
    """`n` frames from the first one that both ports delivered: they connect one after the other."""
    frame = queue.get(60)
    while frame.missing:
        frame = queue.get(60)
    return [frame, *take(queue, n - 1)]


def test_streams_when_read_then_frames_are_the_scenes_by_pulse_id(facility, part):
    with ModuleStream(part.endpoints, detector_name=part.detector_name) as stream:
        frames = take_joined(stream.frames(), 8)
    pulse_ids = [frame.pulse_id for frame in frames]
    assert pulse_ids == list(range(pulse_ids[0], pulse_ids[0] + 32, 4)) and pulse_ids[0] % 4 == 0
    for frame in frames:
        assert frame.is_good and read_stamp(frame.image) == frame.pulse_id
        assert np.array_equal(frame.image, part.scene.raw(frame.pulse_id))
        assert frame.frame_number == (frame.pulse_id - facility.clock.start_pulse_id) // 4 + 1
        assert facility.clock.time_of(frame.pulse_id) - 0.01 < frame.timestamp < time.time()


def test_assembled_streams_when_read_then_carry_the_same_pixels(part):
    for endpoint, pull in ((part.assembled_endpoint, False), (part.live_endpoint, True)):
        with ImageStream(endpoint, pull=pull) as stream:
            (frame,) = take(stream.frames(), 1)
            assert np.array_equal(frame.image, part.scene.raw(frame.pulse_id)) and frame.is_good
            assert frame.extra["detector_name"] == "JF04T02V01"


def test_receiver_of_om_when_it_reads_the_streams_then_pairs_panels_by_acq_index(part, wait_for):
    """SUB, recv_json, recv: what OM's receiver does, and pairs of its two panels on acqIndex."""
    context = zmq.Context()
    try:
        panels = [{}, {}]
        sockets = [context.socket(zmq.SUB) for _ in panels]
        for socket, endpoint in zip(sockets, part.endpoints):
            socket.connect(endpoint)
            socket.setsockopt(zmq.SUBSCRIBE, b"")

        def pairs():
            for socket, panel in zip(sockets, panels):
                if socket.poll(100):
                    header = socket.recv_json()
                    if header["data"]:
                        panel[header["acqIndex"]] = (header, np.frombuffer(socket.recv(), dtype=np.int16))
            return sorted(set(panels[0]) & set(panels[1]))

        for number in wait_for(lambda: len(pairs()) >= 5 and pairs(), "five pairs"):
            (one, upper), (other, lower) = panels[0][number], panels[1][number]
            image = np.concatenate([upper, lower]).reshape(1024, 1024)
            assert one["timestamp"] > 0 and one["frameNumber"] == number == other["frameNumber"]
            assert np.array_equal(image.view("u2"), part.scene.raw(one["detSpec1"]))
    finally:
        context.destroy(linger=0)


def test_acquisition_when_stopped_then_ports_end_and_the_next_one_matches_again(part, wait_for):
    with ModuleStream(part.endpoints) as stream:
        queue = stream.frames()
        take_joined(queue, 2)
        incomplete = stream.counters["incomplete"]
        part.stop_acquisition()
        part.stop_acquisition()
        part.start_acquisition(first_frame_number=1)
        wait_for(lambda: queue.get(60).frame_number == 1, "the first frame of the new numbering")
        assert [frame.frame_number for frame in take(queue, 3)] == [2, 3, 4]
        assert stream.counters["incomplete"] == incomplete


def test_trigger_when_stopped_then_no_frames_and_the_numbers_stand(facility, part, wait_for):
    with ModuleStream(part.endpoints) as stream:
        queue = stream.frames()
        last, frame = take_joined(queue, 2)
        incomplete = stream.counters["incomplete"]
        facility.clock.show(triggered=False)
        try:
            stopped = facility.clock.now()
            wait_for(lambda: part.status()["pulse_id"] > stopped + 40, "ten frames that are not taken")
        finally:
            facility.clock.show(triggered=True)
        while facility.clock.view(frame.pulse_id - 4).triggered:
            last, frame = frame, queue.get(60)
        assert frame.pulse_id - last.pulse_id > 32 and frame.frame_number == last.frame_number + 1
        assert all(facility.clock.view(each.pulse_id).triggered for each in (last, frame, *take(queue, 3)))
        assert stream.counters["incomplete"] == incomplete


@pytest.mark.parametrize("encoding", [{"pulse_id_as_double": True}, {"json_version": 4, "old_names": True}])
def test_encoding_when_changed_while_running_then_frames_go_on(part, encoding):
    part.configure(**encoding)
    try:
        with ModuleStream(part.endpoints) as stream:
            for frame in take_joined(stream.frames(), 3)[1:]:
                assert read_stamp(frame.image) == frame.pulse_id
    finally:
        part.configure(pulse_id_as_double=False, json_version=5, old_names=False)


def test_skew_and_jitter_when_set_then_no_frame_is_lost(part):
    part.configure(skew=[0.0, 0.12], jitter=0.03)
    try:
        with ModuleStream(part.endpoints) as stream:
            queue = stream.frames()
            frames = take_joined(queue, 14)[4:]
            assert set(np.diff([frame.frame_number for frame in frames])) == {1}
            assert all(frame.is_good for frame in frames)
    finally:
        part.configure(skew=[0.0, 0.0], jitter=0.0)


def test_losses_when_armed_then_images_are_marked_and_the_stream_goes_on(part, wait_for):
    with ModuleStream(part.endpoints, max_age=0.5) as stream:
        queue = stream.frames()
        take_joined(queue, 2)
        part.fail_next("lose_packets", module=1, packets=7)
        bad = wait_for(lambda: next((f for f in take(queue, 1) if f.incomplete), None), "the bad frame")
        assert bad.incomplete == (1,) and (bad.image == 0xFFFF).sum() == 7 * 4 * 1024
        part.fail_next("corrupt_header", module=0)
        wait_for(lambda: stream.counters["unparsable"] == 1, "the broken header")
        wait_for(lambda: queue.get(60).missing == (0,), "the image without its module")
        assert take(queue, 5)[-1].is_good


def test_status_when_nobody_listens_then_of_the_pulse_in_which_it_is_asked_for(facility, part):
    for _ in range(20):
        now = facility.clock.now()
        assert part.status()["pulse_id"] >= now


def test_pedestal_stage_when_forced_then_frames_and_daq_rec_show_it(part, wait_for):
    with ModuleStream(part.endpoints) as stream:
        queue = stream.frames()
        take_joined(queue, 1)
        try:
            part.forced_stage = 1
            frame = wait_for(
                lambda: next((f for f in take(queue, 1) if f.daq_rec >> 12 & 3 == 1), None), "a forced frame"
            )
            assert np.bincount(frame.image.ravel() >> 14, minlength=4)[1] > 0.99 * frame.image.size
        finally:
            part.forced_stage = None


def test_light_when_the_shutter_closes_then_frames_are_dark(facility, part, wait_for):
    with ModuleStream(part.endpoints) as stream:
        queue = stream.frames()

        def shown():
            frame = take(queue, 1)[0]
            return DaqRec.decode(frame.daq_rec).dark_shot, bool((frame.image >> 14 == 1).any())

        try:
            facility.clock.light = False
            wait_for(lambda: shown() == (True, False), "dark frames")
        finally:
            facility.clock.light = True
        wait_for(lambda: shown() == (False, True), "light again")


def test_part_when_asked_nonsense_then_refuses_by_name(part):
    for call in (
        lambda: part.fail_next("nonsense"),
        lambda: part.configure(nonsense=1),
        lambda: part.start_acquisition(),
        lambda: setattr(part, "forced_stage", 3),
    ):
        with pytest.raises(RequestError):
            call()


def test_part_when_options_are_wrong_then_the_facility_does_not_start():
    with (
        pytest.raises(RequestError, match="jungfrau_nonsense"),
        Facility(only=["jungfrau"], jungfrau_nonsense=1),
    ):
        pass


def test_two_interfaces_when_set_then_four_streams_make_the_same_image():
    options = {"jungfrau_name": "JF04T02V01", "jungfrau_interfaces": 2, "jungfrau_rate_multiplicator": 10}
    with Facility(speed="auto", only=["jungfrau"], **options) as facility:
        part = facility.jungfrau
        assert len(part.endpoints) == 4
        with ModuleStream(part.endpoints, detector_name=part.detector_name) as stream:
            frame = next(frame for frame in stream if frame.is_good)
            assert np.array_equal(frame.image, part.scene.raw(frame.pulse_id))


def test_module_when_run_alone_then_prints_ready_and_ends_on_a_signal():
    command = [sys.executable, "-m", "sfdaq_ophyd.sim.jungfrau", "--name", "JF04T01V01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("READY ")
        addresses = json.loads(line.removeprefix("READY "))
        with ModuleStream(addresses["endpoints"]) as stream:
            assert stream.frames().get(60).image.shape == (512, 1024)
        process.terminate()
        assert process.wait(60) == 0

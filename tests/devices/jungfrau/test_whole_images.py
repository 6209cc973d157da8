"""Images of two modules of which one is late, lost or another pulse's."""

from __future__ import annotations

import itertools
import threading

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.utils import FailedStatus

from sfdaq_ophyd.devices import Jungfrau
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.wire.module_header import ModuleHeader

from ...clients.stream_peers import Publisher


@pytest.mark.parametrize("plan", ["step", "fly"])
def test_first_point_when_a_port_was_connected_later_then_has_all_modules(engine, tmp_path, plan):
    """The other one has sent 60 frames by then: more than stage looks for where nothing flows."""
    with Publisher(2) as peer:
        device = Jungfrau(peer.endpoints, name="jf", directory=tmp_path, detector_name="JF99T02V01")
        device.connect_timeout.put(60)
        device.timeout.put(30.0)
        received, ended = lambda: device.source.stream.counters["received"], threading.Event()

        def send():
            for number in itertools.count(1):
                for port in range(1 if received() < 60 else 2):
                    header = ModuleHeader(frame_number=number, row=port, detector_blocks=(2, 1))
                    peer.send(port, header.encode(), np.full(512 * 1024, number, "u2"))
                if ended.wait(0.01):
                    return

        sender = threading.Thread(target=send)
        sender.start()
        try:
            engine(bp.count([device]) if plan == "step" else fly([device], 2))
        finally:
            ended.set()
            sender.join()
    assert all(row["jf_is_good"] for row in engine.rows)
    for row, image in zip(engine.rows, engine.images()):
        assert (image == row["jf_frame_number"]).all()


@pytest.fixture
def halves():
    """Two receivers by hand: ``halves(7, ports=[0])`` sends frame number 7 of receiver 0 alone."""
    with Publisher(2) as peer:

        def send(number, ports=(0, 1), **fields):
            for port in ports:
                header = ModuleHeader(
                    frame_number=number,
                    row=port,
                    detector_blocks=(2, 1),
                    frame_index=1,
                    **{"det_spec1": 10_000 + number, **(fields if port else {})},
                )
                peer.send(port, header.encode(), peer.image)

        peer.image = np.full((512, 1024), 3000, "u2")
        peer.publish = send
        yield peer


FILLER = {"complete": False, "n_packets": 0, "det_spec1": 0}
LACKING = {
    "dead": {"ports": [0]},
    "filler": FILLER,
    "another pulse": {"det_spec1": 77},
}


def half_fed(peer, tmp_path, points, **options):
    """A two-module device to which each item of `points` is sent once it was armed: how the frames lack."""
    numbers, points, joined = itertools.count(1), iter(points), []
    jungfrau = Jungfrau(peer.endpoints, name="jf", directory=tmp_path, detector_name="JF02T02V01", **options)
    take = jungfrau.source.frames

    def frames(request):
        for item in take(request):
            if item is None:
                joined or joined.append(peer.wait_subscribed())
                for lacking in next(points, []):
                    peer.publish(next(numbers), **LACKING.get(lacking, {}))
            yield item

    jungfrau.source.frames = frames
    jungfrau.timeout.put(30.0)
    return jungfrau


@pytest.mark.parametrize("lacking", LACKING)
def test_image_when_it_is_not_whole_and_strict_then_is_a_loss_and_named(engine, halves, tmp_path, lacking):
    """jungfrau-strict-half"""
    jungfrau = half_fed(
        halves, tmp_path, [["good", "good", lacking, "good"]], stream_options={"max_age": 0.2}
    )
    with pytest.raises(FailedStatus):
        engine(fly([jungfrau], 4))
    assert all(row["jf_is_good"] for row in engine.rows)
    what = "a common pulse: 10003, 77" if lacking == "another pulse" else "block 1 of 2"
    assert f"missing ids 10003 (lacks {what})" in engine.named("stop")[0]["reason"]


@pytest.mark.parametrize("lacking", LACKING)
def test_image_when_it_is_not_whole_and_retaking_then_its_point_is_taken_again(
    engine, halves, tmp_path, lacking
):
    """jungfrau-strict-half"""
    points = [["good", lacking], ["good", "good", "good"]]
    jungfrau = half_fed(halves, tmp_path, points, stream_options={"max_age": 0.2})
    jungfrau.loss_policy.put("retake")
    engine(fly([jungfrau], 3))
    assert [(row["jf_frame_number"], row["jf_is_good"]) for row in engine.rows] == [
        (1, True),
        (3, True),
        (4, True),
    ]


@pytest.mark.parametrize("lacking", LACKING)
def test_image_when_it_is_not_whole_and_tolerant_then_is_recorded_and_marked(
    engine, halves, tmp_path, lacking
):
    """jungfrau-strict-half"""
    points = [["good", lacking, "good"]]
    jungfrau = half_fed(halves, tmp_path, points, stream_options={"max_age": 0.2})
    jungfrau.loss_policy.put("tolerant")
    engine(fly([jungfrau], 3))
    assert [row["jf_is_good"] for row in engine.rows] == [True, False, True]
    assert [row["jf_n_missing"] for row in engine.rows] == [0, 0, 0]
    assert engine.rows[-1]["jf_n_mismatched"] == (lacking == "another pulse")


@pytest.mark.parametrize("lacking", ["dead", "filler"])
def test_image_when_dropped_and_its_number_means_nothing_then_it_is_lost_all_the_same(
    engine, halves, tmp_path, lacking
):
    points = [["good", lacking, "good", "good"]]
    options = {"stream_options": {"max_age": 0.2, "incomplete": "drop"}, "frame_step": 0}
    jungfrau = half_fed(halves, tmp_path, points, **options)
    jungfrau.loss_policy.put("tolerant")
    engine(fly([jungfrau], 4))
    assert [row["jf_frame_number"] for row in engine.rows] == [1, 0, 3, 4]
    assert [row["jf_n_missing"] for row in engine.rows] == [0, 1, 0, 0]

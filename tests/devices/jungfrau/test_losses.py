import functools

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.utils import FailedStatus

from sfdaq_ophyd.calibration import JungfrauCalibration
from sfdaq_ophyd.clients import StreamFrame
from sfdaq_ophyd.devices import Jungfrau
from sfdaq_ophyd.devices.jungfrau._source import CalibratedImages, RawImages
from sfdaq_ophyd.errors import DetectorStateError, SfdaqError
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.wire.detector_name import DaqRec
from sfdaq_ophyd.wire.image_header import ImageHeader

from ...clients.stream_peers import Publisher
from .conftest import NAME


def arm(engine, part, at, what, **details):
    """Have the simulator misbehave once the event `at` was emitted or collected."""
    token = []

    def callback(name, doc):
        if name == "descriptor" and at == 0 or name == "event" and doc["seq_num"] == at:
            part.fail_next(what, **details)
            engine.RE.unsubscribe(token[0])

    token.append(engine.RE.subscribe(callback))


def test_incomplete_frame_when_it_comes_then_the_row_says_it_is_not_good(engine, part, make):
    arm(engine, part, 1, "lose_packets", module=0, packets=2)
    engine(bp.count([make()], 6))
    bad = [row for row in engine.rows if not row["jf_is_good"]]
    assert len(engine.rows) == 6 and len(bad) <= 1
    for row in bad:
        assert row["jf_n_lost_pixels"] == 2 * 4 * 1024 and row["jf_pulse_id"] == -1
        assert row["jf_event_id"] == str(row["jf_frame_number"])


def test_pulse_id_when_the_source_has_none_then_the_frame_number_is_the_event_id(engine, part, make):
    arm(engine, part, 0, "no_pulse_id", n=2000)
    engine(bp.count([make()], 3))
    row = engine.rows[-1]
    assert row["jf_pulse_id"] == -1 and row["jf_event_id"] == str(row["jf_frame_number"])


@pytest.fixture
def sender():
    """Frames by hand: ``sender(7)`` publishes frame number 7 once somebody listens."""
    with Publisher() as peer:
        peer.image = np.full((512, 1024), 3000, "u2")

        def send(*numbers, dtype="uint16", pixels=None, **fields):
            for number in numbers:
                header = ImageHeader(
                    frame_number=number, shape=(512, 1024), pulse_id=10_000 + number, daq_rec=0, **fields
                )
                text = header.encode().replace(b"uint16", dtype.encode())
                peer.send(0, text, peer.image if pixels is None else pixels)

        peer.publish = send
        yield peer


def hand_fed(peer, tmp_path, numbers, **options):
    """A device that is sent `numbers` each time it was armed."""
    sent, joined = [list(part) for part in numbers], []
    options |= {"name": "jf", "directory": tmp_path, "detector_name": NAME}
    jungfrau = Jungfrau(peer.endpoints[0], **{"stream": "assembled", "frame_step": 1, **options})
    take = jungfrau.source.frames

    def frames(request):
        for item in take(request):
            if item is None:
                joined or joined.append(peer.wait_subscribed())
                peer.publish(*(sent.pop(0) if sent else []))
            yield item

    jungfrau.source.frames = frames
    jungfrau.timeout.put(30.0)
    return jungfrau


def test_missing_frame_when_strict_then_the_scan_fails_and_names_it(engine, sender, tmp_path):
    jungfrau = hand_fed(sender, tmp_path, [[1, 2, 4, 5, 6]])
    with pytest.raises(FailedStatus):
        engine(fly([jungfrau], 5))
    assert "frame number 3" in engine.named("stop")[0]["reason"]


def test_missing_frame_when_tolerant_then_the_gap_is_marked(engine, sender, tmp_path):
    jungfrau = hand_fed(sender, tmp_path, [[1, 2, 4, 5, 6]])
    jungfrau.loss_policy.put("tolerant")
    engine(fly([jungfrau], 5))
    rows = engine.rows
    assert [row["jf_event_id"] for row in rows] == ["10001", "10002", "", "10004", "10005"]
    assert [row["jf_n_missing"] for row in rows] == [0, 0, 1, 0, 0]
    assert not rows[2]["jf_is_good"] and not engine.images()[2].any()


def test_incomplete_frame_when_told_to_drop_then_it_is_a_lost_one(engine, sender, tmp_path):
    publish = sender.publish
    sender.publish = lambda *numbers: [publish(number, is_good=number != 3) for number in numbers]
    jungfrau = hand_fed(sender, tmp_path, [[1, 2, 3, 4, 5]], stream_options={"incomplete": "drop"})
    jungfrau.loss_policy.put("tolerant")
    engine(fly([jungfrau], 5))
    assert [row["jf_n_missing"] for row in engine.rows] == [0, 0, 1, 0, 0]
    assert [row["jf_is_good"] for row in engine.rows] == [True, True, False, True, True]


def test_incomplete_frame_when_dropped_from_numbers_that_mean_nothing_then_it_is_lost_all_the_same(
    engine, sender, tmp_path
):
    publish = sender.publish
    sender.publish = lambda *numbers: [publish(number, is_good=number != 30) for number in numbers]
    options = {"stream_options": {"incomplete": "drop"}, "frame_step": 0}
    jungfrau = hand_fed(sender, tmp_path, [[1, 2, 30, 44, 50]], **options)
    jungfrau.loss_policy.put("tolerant")
    engine(fly([jungfrau], 5))
    assert [row["jf_frame_number"] for row in engine.rows] == [1, 2, 0, 44, 50]


def test_lost_packets_when_padded_with_zeros_then_they_are_no_signal(engine, sender, tmp_path, calibration):
    sender.image[8:12] = 0
    sender.publish = functools.partial(sender.publish, is_good=False)
    jungfrau = hand_fed(sender, tmp_path, [[1]], calibration=calibration.with_options(gap_pixels=False))
    jungfrau.image_kind.put("both")
    engine(bp.count([jungfrau]))
    assert engine.rows[0]["jf_n_lost_pixels"] == 4 * 1024 and not engine.rows[0]["jf_is_good"]
    assert not engine.images()[0][8:12].any() and engine.images()[0][12:16].any()
    assert not engine.images("jf_raw")[0][8:12].any()


@pytest.mark.parametrize(
    ("spoil", "lacks"),
    [
        (lambda image: image.fill(0), "block 0 of 1"),
        (lambda image: None, "modules of one frame"),
        (lambda image: image[8:12].fill(0), ""),
    ],
    ids=["no packet came", "an older module", "a packet lost"],
)
def test_image_of_the_assembled_stream_when_not_good_then_pixels_say_whether_it_is_whole(spoil, lacks):
    """jungfrau-strict-half: sf-daq does not say why, and may leave an older module in an image."""
    raw = np.full((512, 1024), 3000, "u2")
    spoil(raw)
    assert RawImages(raw.shape)(frame(raw, is_good=False)).lacks == lacks


def test_missing_frame_when_retaking_then_the_points_come_from_another_exposure(engine, sender, tmp_path):
    jungfrau = hand_fed(sender, tmp_path, [[1, 2, 4], [10, 11, 12, 13]])
    jungfrau.loss_policy.put("retake")
    engine(fly([jungfrau], 5))
    assert [row["jf_frame_number"] for row in engine.rows] == [1, 2, 10, 11, 12]


def test_missing_frames_when_numbers_jump_far_then_no_more_than_asked_are_marked(engine, sender, tmp_path):
    jungfrau = hand_fed(sender, tmp_path, [[1, 2**62]])
    jungfrau.loss_policy.put("tolerant")
    engine(fly([jungfrau], 4))
    assert [row["jf_n_missing"] for row in engine.rows] == [0, 1, 1, 1]


def test_converted_stream_when_declared_then_images_are_kev(engine, sender, tmp_path):
    image = np.linspace(-1, 9, 512 * 1024, dtype="f4").reshape(512, 1024)
    sender.publish = functools.partial(sender.publish, dtype="float32", pixels=image)
    jungfrau = hand_fed(sender, tmp_path, [[1]], converted_shape=(512, 1024))
    engine(bp.count([jungfrau]))
    assert np.array_equal(engine.images()[0], image)
    assert engine.named("descriptor")[0]["data_keys"]["jf_image"]["units"] == "keV"


def test_converted_image_when_raw_was_expected_then_is_never_passed_as_raw(engine, sender, tmp_path):
    zeros = np.zeros((512, 1024), "f4")
    sender.publish = functools.partial(sender.publish, dtype="float32", pixels=zeros)
    jungfrau = hand_fed(sender, tmp_path, [[1]])
    with pytest.raises(FailedStatus):
        engine(bp.count([jungfrau]))
    assert "float32" in engine.named("stop")[0]["reason"] and "uint16" in engine.named("stop")[0]["reason"]
    assert not engine.rows


@pytest.fixture
def patient(monkeypatch):
    """Stage looks until it sees something, however slow the machine is."""
    monkeypatch.setattr("sfdaq_ophyd.devices.jungfrau._source.LOOK", 60.0)


def test_stream_when_it_is_of_another_detector_then_stage_is_refused_and_nothing_stays_open(
    patient, part, tmp_path
):
    other = Jungfrau(part.endpoints, name="jf", directory=tmp_path, detector_name="JF05T02V01")
    with pytest.raises(
        DetectorStateError, match=r"^jf: .*an image of \(512, 1024\), expected \(1024, 1024\)"
    ):
        other.stage()
    assert other.n_foreign.get() and not other.n_unparsable.get() and other.source.stream.connected == [False]


def test_assembled_stream_when_images_are_of_another_shape_then_stage_is_refused(patient, make):
    other = make(stream="assembled", converted_shape=(7, 9))
    with pytest.raises(DetectorStateError, match="^jf: not the images that were asked for"):
        other.stage()


def test_messages_when_they_become_those_of_another_detector_then_the_failed_scan_says_so(
    engine, part, tmp_path, wait_for
):
    other = Jungfrau(part.endpoints, name="jf", directory=tmp_path, detector_name="JF05T02V01")
    other.timeout.put(0.3)
    counters = lambda: other.source.stream.counters  # noqa: E731
    other.source._look = lambda settings: wait_for(lambda: counters()["foreign"], "messages")  # refuses none
    with pytest.raises(FailedStatus):
        engine(bp.count([other]))
    reason = engine.named("stop")[0]["reason"]
    assert "foreign" in reason and "unparsable" not in reason
    assert "an image of (512, 1024), expected (1024, 1024)" in reason


def frame(raw, **fields):
    return StreamFrame(image=raw, timestamp=1.0, event_id="1", pulse_id=1, frame_number=1, **fields)


def test_calibrated_image_when_taken_in_high_gain_then_uses_its_constants():
    gain = np.stack([np.full((512, 1024), value) for value in (40.0, -1.4, -0.1, 100.0, -1.4, -0.1)])
    calibration = JungfrauCalibration(NAME, gain, np.full((3, 512, 1024), 2000.0), gap_pixels=False)
    process = CalibratedImages(calibration)
    raw = np.full((512, 1024), 2400, "u2")
    assert process(frame(raw, daq_rec=0)).image[5, 5] == pytest.approx(10)
    assert process(frame(raw, daq_rec=DaqRec(high_gain=True).encode())).image[5, 5] == pytest.approx(4)
    assert process(frame(raw, daq_rec=0)).image[5, 5] == pytest.approx(10)


def test_calibrated_image_when_packets_are_lost_then_they_count_as_nothing(calibration):
    process = CalibratedImages(calibration)
    raw = np.full((512, 1024), 0xFFFF, "u2")
    done = process(frame(raw, daq_rec=0, is_good=False))
    assert not done.image.any() and done.scalars["total"] == 0 and done.scalars["n_lost_pixels"] == raw.size


def test_calibrated_image_when_kept_then_later_frames_do_not_write_into_it(calibration, facility):
    process = CalibratedImages(calibration)
    kept = [process(frame(facility.jungfrau.scene.raw(p), daq_rec=0)) for p in (4, 8, 12)]
    for pulse_id, done in zip((4, 8, 12), kept):
        assert np.array_equal(done.image, calibration(facility.jungfrau.scene.raw(pulse_id)))


def test_calibrated_image_when_the_stream_is_converted_already_then_fails(calibration):
    with pytest.raises(DetectorStateError, match="converted already"):
        CalibratedImages(calibration)(frame(np.zeros((512, 1024), "f4")))


def test_total_when_pixels_are_in_all_gains_then_sums_their_adu_without_gain_bits_and_lost_ones():
    raw = np.random.default_rng(4).integers(0, 2**16, (512, 1024), "u2")
    raw[3:7] = 0xFFFF
    done = RawImages(raw.shape)(frame(raw))
    assert done.scalars["total"] == (raw[raw != 0xFFFF].astype("i8") & 0x3FFF).sum()


@pytest.mark.parametrize("is_good", [True, False])
@pytest.mark.parametrize("kind", ["raw", "calibrated"])
def test_image_when_it_is_of_another_shape_then_refused_whether_good_or_not(kind, is_good, calibration):
    process = RawImages((512, 1024)) if kind == "raw" else CalibratedImages(calibration)
    with pytest.raises(SfdaqError, match=r"514, 1030"):
        process.frame_format.check(process(frame(np.full((514, 1030), 7, "u2"), is_good=is_good)))


def calibration_of(name, n_modules, **options):
    planes = (40.0, -1.4, -0.1, 100.0, -1.4, -0.1)
    gain = np.stack([np.full((512 * n_modules, 1024), value) for value in planes])
    pedestal = np.full((3, 512 * n_modules, 1024), 2000.0)
    return JungfrauCalibration(name, gain, pedestal, gap_pixels=False, geometry=False, **options)


HIGH = DaqRec(high_gain=True).encode()


def test_calibrated_image_when_its_mode_is_not_known_then_is_that_of_the_last_or_of_the_calibration():
    raw = np.full((512, 1024), 2400, "u2")
    for own, first in ((False, 10), (True, 4)):
        process = CalibratedImages(calibration_of(NAME, 1, highgain=own))
        words = [None, HIGH, None, 0, None]
        kev = [process(frame(raw, daq_rec=word)).image[5, 5] for word in words]
        assert kev == pytest.approx([first, 4, 4, 10, 10])


def test_calibrated_image_when_constants_of_the_other_mode_are_unusable_then_they_are_not_asked_for():
    gain, pedestal = np.full((6, 512, 1024), 100.0), np.full((3, 512, 1024), 2000.0)
    gain[:3] = 0
    process = CalibratedImages(JungfrauCalibration(NAME, gain, pedestal, gap_pixels=False, highgain=True))
    raw = np.full((512, 1024), 2400, "u2")
    assert process(frame(raw, daq_rec=None, is_good=False)).image[5, 5] == pytest.approx(4)


def test_saturated_pixels_of_a_raw_image_when_taken_in_high_gain_then_are_by_its_word():
    raw = np.full((512, 1024), 2400, "u2")
    raw[0, :3], raw[1, :5] = 0x3FFF, 0xC000
    process = RawImages(raw.shape)
    words = [None, 0, HIGH, None, 0]
    found = [process(frame(raw, daq_rec=word)).scalars["n_saturated"] for word in words]
    assert found == [5, 5, 3, 3, 5]


@pytest.mark.parametrize("kind", ["raw", "calibrated"])
def test_image_when_it_says_that_it_is_of_other_modules_then_fails(kind):
    ours, whole = (0, -1, 1), np.full((1536, 1024), 2400, "u2")
    process = RawImages((1024, 1024), ours)
    if kind == "calibrated":
        process = CalibratedImages(calibration_of("JF01T03V01", 3, module_map=ours, engine="numpy"))
    for extra in ({}, {"module_map": list(ours)}, {"module_map": "of a user"}):
        assert process(frame(whole[:1024], extra=extra)).scalars["n_lost_pixels"] == 0
    assert process(frame(whole, extra={"module_map": [0, 1, 2]})).scalars["n_lost_pixels"] == 0
    with pytest.raises(DetectorStateError, match=r"module_map \(-1, 0, 1\), expected \(0, -1, 1\)"):
        process(frame(whole[:1024], extra={"module_map": [-1, 0, 1]}))


def test_image_when_no_module_was_complete_then_its_number_0_is_no_jump(engine, sender, tmp_path):
    def publish(*numbers):
        for number in numbers:
            fields = {"pulse_id": number or None, "daq_rec": HIGH if number else 0, "is_good": number > 0}
            header = ImageHeader(frame_number=number, shape=(512, 1024), **fields)
            sender.send(0, header.encode(), sender.image)

    sender.publish = publish
    jungfrau = hand_fed(sender, tmp_path, [[5_000_000, 5_000_001, 0, 5_000_003, 5_000_005]])
    jungfrau.loss_policy.put("tolerant")
    engine(fly([jungfrau], 6))
    rows = engine.rows
    assert [row["jf_frame_number"] for row in rows] == [5_000_000, 5_000_001, 0, 5_000_003, 0, 5_000_005]
    assert [row["jf_n_missing"] for row in rows] == [0, 0, 0, 0, 1, 0]
    assert [row["jf_daq_rec"] for row in rows[:4]] == [HIGH, HIGH, -1, HIGH]

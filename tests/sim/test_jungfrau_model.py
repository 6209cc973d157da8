import json

import numpy as np
import pytest

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.sim.clock import PULSE_PERIOD
from sfdaq_ophyd.sim.jungfrau.model import FAULTS, AssembledModel, DetectorModel, JungfrauSettings
from sfdaq_ophyd.sim.jungfrau.scene import Scene
from sfdaq_ophyd.wire.image_header import ImageHeader
from sfdaq_ophyd.wire.module_header import ModuleHeader

START = 21125820000
SCENE = Scene("JF04T02V01")


def detector(**settings):
    settings = JungfrauSettings(detector_name="JF04T02V01", **settings)
    return DetectorModel(SCENE, settings, START, lambda pulse_id: (pulse_id - START) * PULSE_PERIOD)


def take(model, pulse_id):
    """Headers and pixels of one pulse, by port."""
    assert model.take(pulse_id)
    return {m.port: (ModuleHeader.decode(m.parts[0]), m.parts) for m in model.messages()}


def test_frame_when_plain_then_header_is_the_real_receivers_and_pixels_are_the_scenes():
    model = detector(n_frames=8)
    messages = take(model, START)
    header, parts = messages[1]
    assert parts[0].decode() == (
        '{"jsonversion":5, "bitmode":16, "fileIndex":0, "detshape":[1, 2], "shape":[1024, 512], '
        '"size":1048576, "acqIndex":1, "frameIndex":0, "progress":12.5, "fname":"/data/run/scan", "data":1, '
        '"completeImage":1, "frameNumber":1, "expLength":50, "packetNumber":128, "detSpec1":21125820000, '
        '"timestamp":12346, "modId":101, "row":1, "column":0, "detSpec2":0, "detSpec3":528160, '
        '"detSpec4":0, "detType":3, "version":2, "flipRows":0, "quad":0, "rx_roi":[0, 1023, 0, 511]}\n'
    )
    assert parts[1] == SCENE.raw(START)[512:].tobytes() and len(parts) == 2


@pytest.mark.parametrize("rate", [1, 2, 10, 100])
def test_frame_number_when_rate_is_divided_then_counts_triggers_from_the_start(rate):
    model = detector(rate_multiplicator=rate)
    taken = [p for p in range(START, START + 3 * rate + 1) if model.take(p) or False]
    assert taken == [p for p in range(START, START + 3 * rate + 1) if p % rate == 0]
    assert model.frame_number == (taken[-1] - START) // rate + 1


def test_encoding_when_pulse_id_is_a_double_or_names_are_old_then_is_read_alike():
    for settings in (
        {"pulse_id_as_double": True},
        {"json_version": 4},
        {"json_version": 4, "old_names": True},
    ):
        header, parts = take(detector(**settings), START)[0]
        assert header.pulse_id == START
        assert ("rx_roi" in parts[0].decode()) == (header.json_version == 5)


def test_extra_header_when_set_then_is_sent_as_strings():
    header, _ = take(detector(extra={"run": "12", "sample": "x"}), START)[0]
    assert header.extra == {"run": "12", "sample": "x"}


def test_two_interfaces_when_set_then_each_sends_half_a_module():
    messages = take(detector(interfaces=2), START)
    assert sorted(messages) == [0, 1, 2, 3]
    whole = b"".join(messages[port][1][1] for port in range(4))
    assert whole == SCENE.raw(START).tobytes()
    header = messages[3][0]
    assert (header.detector_blocks, header.shape, header.row, header.n_packets) == (
        (4, 1),
        (256, 1024),
        3,
        64,
    )


@pytest.mark.parametrize(
    ("policy", "of_lost_frame", "of_lost_packets"),
    [("nodiscard", True, True), ("discardempty", False, True), ("discardpartial", False, False)],
)
def test_discard_policy_when_packets_are_lost_then_decides_what_is_streamed(
    policy, of_lost_frame, of_lost_packets
):
    model = detector(discard_policy=policy)
    model.faults.add("lose_module_frame", {"module": 1})
    lost = take(model, START)
    assert (1 in lost) == of_lost_frame and 0 in lost
    if 1 in lost:
        header, parts = lost[1]
        zeros = (header.n_packets, header.ticks, header.det_spec1, header.module_id, header.exposure_ticks)
        assert zeros == (0,) * 5 and not header.complete and parts[1] == b"\xff" * 2**20
        assert (header.row, header.frame_number) == (1, 1)
    model.faults.add("lose_packets", {"module": 0, "packets": [2, 127]})
    partial = take(model, START + 1)
    assert (0 in partial) == of_lost_packets
    if 0 in partial:
        header, parts = partial[0]
        pixels = np.frombuffer(parts[1], "u2").reshape(512, 1024)
        assert header.n_packets == 126 and not header.complete
        assert np.flatnonzero((pixels == 0xFFFF).all(1)).tolist() == [8, 9, 10, 11, 508, 509, 510, 511]


@pytest.mark.parametrize(("packets", "late"), [([127], True), ([3], False)])
def test_frame_when_its_last_packet_is_lost_then_waits_for_the_next_one(packets, late):
    model = detector(rate_multiplicator=10)
    model.faults.add("lose_packets", {"module": 1, "packets": packets})
    assert model.take(START)
    assert [message.delay for message in model.messages()] == [0, 0.1 if late else 0]


def test_frame_index_when_a_port_lost_its_first_frame_then_differs_between_ports():
    model = detector(discard_policy="discardempty")
    model.faults.add("lose_module_frame", {"module": 1})
    take(model, START)
    messages = take(model, START + 1)
    assert [messages[port][0].frame_index for port in (0, 1)] == [1, 0]


def test_acquisition_when_stopped_and_started_then_numbers_go_on_and_the_clock_starts_anew():
    model = detector()
    take(model, START + 50)
    ends = model.stop()
    assert [m.port for m in ends] == [0, 1] and all(len(m.parts) == 1 for m in ends)
    assert json.loads(ends[0].parts[0])["data"] == 0
    assert not model.take(START + 51)
    model.start(START + 60)
    header, _ = take(model, START + 61)[0]
    assert header.frame_number == 52 and header.file_index == 1 and header.ticks < 200_000
    model.stop()
    model.start(START + 70, first_frame_number=1)
    assert take(model, START + 71)[0][0].frame_number == 1


def test_start_when_running_then_is_refused():
    with pytest.raises(RequestError):
        detector().start(START)


def test_message_faults_when_armed_then_break_one_message_and_no_more():
    for fault in (
        "corrupt_header",
        "quoted_header",
        "foreign_json",
        "truncated_pixels",
        "wrong_shape",
        "wrong_dtype",
        "extra_part",
    ):
        model = detector()
        good = [m.parts for m in (model.take(START), model.messages())[1]]
        model.faults.add(fault, {"module": 1})
        model.take(START)
        broken = [m.parts for m in model.messages()]
        assert broken[0] == good[0] and broken[1] != good[1], fault
        model.take(START)
        assert [m.parts for m in model.messages()] == good, fault


def test_number_faults_when_armed_then_change_what_they_say():
    model = detector()
    model.faults.add("restart", {"first": 1})
    take(model, START + 500)
    assert model.frame_number == 1
    model.faults.add("pulse_mismatch", {"module": 1})
    messages = take(model, START + 501)
    assert messages[0][0].pulse_id - messages[1][0].pulse_id == 1
    model.faults.add("no_pulse_id", {})
    assert {h.pulse_id for h, _ in take(model, START + 502).values()} == {None}
    model.faults.add("undefined_gain", {"module": 0, "n_pixels": 7})
    pixels = np.frombuffer(take(model, START + 503)[0][1][1], "u2")
    assert (pixels >> 14 == 2).sum() == 7
    model.faults.add("silence", {"n": 2})
    assert [model.take(START + 504 + k) for k in range(3)] == [False, False, True]
    assert model.frame_number == 7


def test_order_faults_when_armed_then_repeat_delay_or_end():
    model = detector()
    model.faults.add("duplicate", {"module": 0})
    model.take(START)
    assert [m.port for m in model.messages()] == [0, 0, 1]
    model.faults.add("early_end", {"module": 1})
    model.take(START)
    messages = model.messages()
    assert [(m.port, len(m.parts)) for m in messages] == [(0, 2), (1, 1), (1, 2)]
    model.faults.add("late", {"module": 1, "seconds": 0.2})
    model.take(START)
    assert [m.delay for m in model.messages()] == [0, 0.2]
    model.faults.add("lose_end", {"module": 0})
    assert [m.port for m in model.stop()] == [1]
    assert [m.port for m in model.stop()] == [0, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"detector_name": "JF"},
        {"rate_multiplicator": 3},
        {"discard_policy": "drop"},
        {"interfaces": 3},
        {"json_version": 6},
        {"skew": (1, 2)},
        {"jitter": -1},
        {"loss": 2},
        {"live_rate": 0},
    ],
)
def test_settings_when_wrong_then_name_the_field(wrong):
    with pytest.raises(RequestError) as error:
        JungfrauSettings(**wrong)
    assert error.value.field in wrong


def test_settings_when_changed_then_names_are_checked_and_sizes_are_fixed():
    settings = JungfrauSettings()
    assert settings.changed(jitter=0.1).jitter == 0.1
    for wrong in ({"jiter": 1}, {"detector_name": "JF04T01V01"}, {"interfaces": 2}):
        with pytest.raises(RequestError):
            settings.changed(**wrong)


def test_assembled_when_good_then_header_and_pixels_are_the_senders():
    model = detector(gain_file="/g.h5", pedestal_file="/p.h5")
    assembled = AssembledModel(model)
    model.take(START)
    header, pixels = assembled.image()
    text, data = assembled.parts(header, pixels, 1)
    assert text.decode() == (
        '{"frame":1,"is_good_frame":1,"daq_rec":528160,"pulse_id":21125820000,"pedestal_file":"/p.h5",'
        '"gain_file":"/g.h5","detector_name":"JF04T02V01","htype":"array-1.0","type":"uint16","shape":[1024,1024]}'
    )
    assert np.array_equal(data, SCENE.raw(START))


def test_assembled_when_packets_are_lost_then_they_are_zero_and_the_image_is_bad():
    model = detector()
    assembled = AssembledModel(model)
    model.faults.add("lose_packets", {"module": 1, "packets": [0]})
    model.take(START)
    header, pixels = assembled.image()
    assert not header.is_good and not pixels[512:516].any() and pixels[516].any()


@pytest.mark.parametrize("fault", ["lose_module_frame", "bad_image"])
def test_assembled_when_a_module_is_missing_then_its_slot_shows_what_was_written_a_round_ago(fault):
    model = detector()
    assembled = AssembledModel(model)
    model.faults.add(fault, {})
    model.take(START)
    header, pixels = assembled.image()
    assert not header.is_good and header.pulse_id == START
    assert np.array_equal(pixels[:512], SCENE.raw(START - 1000)[:512])
    assert np.array_equal(pixels[512:], SCENE.raw(START)[512:])


@pytest.mark.parametrize("lost", [["lose_module_frame", "lose_packets"], ["lose_packets"] * 2])
def test_assembled_when_no_module_is_complete_then_its_numbers_are_zero(lost):
    model = detector()
    assembled = AssembledModel(model)
    for module, fault in enumerate(lost):
        model.faults.add(fault, {"module": module})
    model.take(START)
    header, _ = assembled.image()
    sent = json.loads(header.encode())
    assert [sent[name] for name in ("frame", "pulse_id", "daq_rec", "is_good_frame")] == [0, 0, 0, 0]
    model.faults.add("lose_module_frame", {"module": 0})
    model.take(START + 1)
    header, _ = assembled.image()
    assert (header.frame_number, header.pulse_id, header.is_good) == (2, START + 1, False)


def test_assembled_when_faults_are_armed_then_images_are_empty_or_left_out():
    model = detector()
    assembled = AssembledModel(model)
    model.take(START)
    model.faults.add("zero_pulse_id", {})
    header, _ = assembled.image()
    sent = json.loads(header.encode())
    assert [sent[name] for name in ("frame", "pulse_id", "daq_rec", "is_good_frame")] == [0, 0, 0, 0]
    model.faults.add("placeholder", {})
    text, data = assembled.parts(*assembled.image(), 1)
    assert ImageHeader.decode(text).placeholder and data == bytes(8)


def test_faults_when_listed_then_each_has_a_meaning():
    assert all(len(meaning) > 20 for meaning in FAULTS.values()) and len(FAULTS) >= 20

import json
import threading
import time

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import protocols
from bluesky.utils import FailedStatus

from sfdaq_ophyd.calibration import JungfrauCalibration
from sfdaq_ophyd.devices import Jungfrau
from sfdaq_ophyd.errors import DetectorStateError, RequestError, ServiceTimeout
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire.module_header import ModuleHeader

from ...clients.stream_peers import Publisher
from .conftest import NAME


def check_rows(engine, part, calibrate=lambda raw: raw, key="jf_image"):
    images = engine.images(key)
    assert len(images) == len(engine.rows)
    for row, image in zip(engine.rows, images):
        assert row["jf_event_id"] == str(row["jf_pulse_id"])
        assert np.array_equal(image, calibrate(part.scene.raw(row["jf_pulse_id"])))


def test_step_scan_when_raw_then_every_point_is_a_new_frame_with_its_numbers(engine, facility, part, make):
    engine(bp.count([make()], 4))
    check_rows(engine, part)
    rows = engine.rows
    assert (np.diff([row["jf_pulse_id"] for row in rows]) > 0).all()
    assert all(
        row["jf_is_good"] and row["jf_n_undefined_gain"] == row["jf_n_lost_pixels"] == 0 for row in rows
    )
    raw = part.scene.raw(rows[0]["jf_pulse_id"])
    assert rows[0]["jf_total"] == (raw & 0x3FFF).sum()
    assert rows[0]["jf_n_saturated"] == (raw == 0xC000).sum()
    assert rows[0]["jf_daq_rec"] == part.scene.daq_rec(rows[0]["jf_pulse_id"])
    assert facility.clock.time_of(rows[0]["jf_pulse_id"]) - 0.01 < rows[0]["jf_timestamp"] < time.time()
    (descriptor,) = engine.named("descriptor")
    assert descriptor["data_keys"]["jf_image"]["units"] == "ADU"
    assert descriptor["data_keys"]["jf_image"]["shape"] == [1, 512, 1024]


def test_step_scan_when_a_pulse_id_device_is_given_then_only_later_pulses_count(engine, facility, part, make):
    class Ahead:
        """As PulseId, and 40 pulses fast: so frames that arrive early must be passed over."""

        asked = []

        def get(self):
            self.asked.append(facility.clock.now() + 40)
            return self.asked[-1]

    engine(bp.count([make(pulse_id=Ahead())], 2))
    for row, asked in zip(engine.rows, Ahead.asked):
        assert asked < row["jf_pulse_id"] <= asked + 4


def test_step_scan_when_calibrated_then_images_are_kev_and_the_constants_are_recorded(
    engine, part, make, calibration
):
    engine(bp.count([make(calibration=calibration)], 2))
    check_rows(engine, part, calibration)
    (descriptor,) = engine.named("descriptor")
    assert descriptor["data_keys"]["jf_image"]["units"] == "keV"
    assert descriptor["data_keys"]["jf_image"]["dtype_numpy"] == "<f4"
    assert descriptor["data_keys"]["jf_image"]["shape"] == [1, *calibration.shape]
    recorded = descriptor["configuration"]["jf"]["data"]
    assert recorded["jf_gain_file"] == "/x/gains.h5" and recorded["jf_pedestal_file"] == "/x/today.res.h5"
    assert (
        recorded["jf_constants_hash"] == calibration.constants_hash and len(calibration.constants_hash) == 64
    )
    assert recorded["jf_detector_name"] == NAME and recorded["jf_image_kind"] == "calibrated"
    assert isinstance(json.loads(recorded["jf_calibration"]), dict)
    assert engine.rows[0]["jf_total"] == pytest.approx(engine.images()[0].sum(dtype="f8"))


@pytest.mark.parametrize("plan", ["step", "fly"])
def test_scan_when_both_are_wanted_then_raw_and_calibrated_images_share_their_rows(
    engine, part, make, calibration, plan
):
    jungfrau = make(calibration=calibration)
    jungfrau.image_kind.put("both")
    engine(bp.count([jungfrau], 3) if plan == "step" else fly([jungfrau], 3))
    check_rows(engine, part, calibration)
    check_rows(engine, part, key="jf_raw")
    keys = engine.named("descriptor")[0]["data_keys"]
    assert [keys[key]["units"] for key in ("jf_image", "jf_raw")] == ["keV", "ADU"]


def test_step_scan_when_photons_are_counted_then_the_scenes_photons_come_back(
    engine, part, make, calibration
):
    counting = calibration.with_options(gap_pixels=False, geometry=False)
    engine(bp.count([make(calibration=counting, photon_energy=9.3)], 1))
    assert engine.named("descriptor")[0]["data_keys"]["jf_image"]["units"] == "photons"
    pulse_id = engine.rows[0]["jf_pulse_id"]
    raw, photons = part.scene.raw(pulse_id), part.scene.photons(pulse_id)
    plain = (raw >> 14 == 0) & (part.scene.constants.mask == 0)
    plain[0, :8] = False
    image = engine.images()[0]
    assert image.dtype == np.int32 and np.array_equal(image[plain], photons[plain])


def test_step_scan_when_photons_are_not_rounded_then_they_are_float32(engine, part, make, calibration):
    kev = calibration.with_options(gap_pixels=False, geometry=False)
    engine(bp.count([make(calibration=kev.with_options(rounded=False), photon_energy=9.3)], 1))
    (descriptor,) = engine.named("descriptor")
    key = descriptor["data_keys"]["jf_image"]
    assert key["units"] == "photons" and key["dtype_numpy"] == "<f4"
    raw = part.scene.raw(engine.rows[0]["jf_pulse_id"])
    np.testing.assert_allclose(engine.images()[0], kev(raw) / 9.3, rtol=1e-6)


def test_event_ids_when_frames_are_asked_for_then_are_frame_numbers_beside_the_pulse_ids(engine, part, make):
    engine(bp.count([make(event_id="frame")], 2))
    for row, image in zip(engine.rows, engine.images()):
        assert row["jf_event_id"] == str(row["jf_frame_number"]) != str(row["jf_pulse_id"])
        assert np.array_equal(image, part.scene.raw(row["jf_pulse_id"]))
    assert engine.named("descriptor")[0]["configuration"]["jf"]["data"]["jf_event_ids"] == "frame"


def test_step_scan_when_the_detector_is_in_no_geometry_table_then_is_stacked_and_says_so(
    engine, tmp_path, caplog
):
    """OM's Jungfrau 1M: two modules, one above the other, here in two columns at the receivers."""
    name = "JF99T02V01"
    gain, pedestal = np.full((4, 1024, 1024), 40.0), np.zeros((3, 1024, 1024))
    gain[1:3] = -1
    calibration = JungfrauCalibration(name, gain, pedestal, gap_pixels=False)
    assert "JF99T02V01 is in no geometry table" in caplog.text
    with Publisher(2) as peer:
        device = Jungfrau(
            peer.endpoints, name="jf", directory=tmp_path, detector_name=name, calibration=calibration
        )
        take = device.source.frames

        def frames(request):
            for item in take(request):
                if item is None:
                    peer.wait_subscribed()
                    for column, value in enumerate((400, 800)):
                        header = ModuleHeader(frame_number=1, column=column, detector_blocks=(1, 2))
                        peer.send(column, header.encode(), np.full(512 * 1024, value, "u2"))
                yield item

        device.source.frames = frames
        engine(bp.count([device]))
    image = engine.images()[0]
    assert image.shape == (1024, 1024) and (image[:512] == 10).all() and (image[512:] == 20).all()
    options = engine.named("descriptor")[0]["configuration"]["jf"]["data"]["jf_calibration"]
    assert json.loads(options)["geometry"] is False


def test_step_scan_when_several_frames_per_trigger_then_they_are_consecutive(engine, make):
    jungfrau = make()
    jungfrau.frames_per_trigger.put(3)
    engine(bp.count([jungfrau], 2))
    images = engine.images()
    assert len(images) == 6
    ids = [pulse_id for row in engine.rows for pulse_id in row["jf_pulse_id"]]
    assert [read_stamp(image) for image in images] == ids
    assert np.diff(ids[:3]).tolist() == [4, 4] == np.diff(ids[3:]).tolist()


def test_fly_scan_when_done_then_rows_and_images_are_aligned_and_no_frame_is_left_out(engine, part, make):
    engine(fly([make()], 30))
    check_rows(engine, part)
    ids = [row["jf_pulse_id"] for row in engine.rows]
    assert len(ids) == 30 and set(np.diff(ids)) == {4}
    assert set(np.diff([row["jf_frame_number"] for row in engine.rows])) == {1}


def test_assembled_stream_when_used_then_gives_the_same_frames(engine, part, make, calibration):
    engine(bp.count([make(stream="assembled")], 2))
    check_rows(engine, part)
    engine(fly([make(stream="assembled", calibration=calibration)], 5))
    check_rows(engine, part, calibration)
    assert len(engine.rows) == 5


def test_counters_when_read_then_are_in_the_event_and_described(engine, make):
    jungfrau = make()
    engine(bp.count([jungfrau], 1))
    keys = engine.named("descriptor")[0]["data_keys"]
    for counter in (
        "incomplete",
        "late",
        "duplicate",
        "dropped",
        "foreign",
        "unparsable",
    ):
        assert keys[f"jf_n_{counter}"]["dtype"] == "integer"
        assert engine.rows[0][f"jf_n_{counter}"] == 0
    assert keys["jf_n_complete"]["dtype"] == keys["jf_n_received"]["dtype"] == "integer"
    assert 1 <= engine.rows[0]["jf_n_complete"] <= engine.rows[0]["jf_n_received"]


def test_counters_when_flown_then_are_in_every_row_as_collected(engine, make):
    engine(fly([make()], 12))
    keys = engine.named("descriptor")[0]["data_keys"]
    assert keys["jf_n_received"]["dtype"] == "integer" and keys["jf_n_received"]["shape"] == []
    received = [row["jf_n_received"] for row in engine.rows]
    assert len(received) == 12 and received == sorted(received) and received[-1] >= 12
    assert all(row["jf_n_unparsable"] == row["jf_n_incomplete"] == 0 for row in engine.rows)


def test_protocols_when_asked_then_the_device_is_what_bluesky_wants(make):
    jungfrau = make()
    for protocol in (
        protocols.Readable,
        protocols.Stageable,
        protocols.Triggerable,
        protocols.Flyable,
        protocols.Pausable,
        protocols.Stoppable,
        protocols.WritesExternalAssets,
    ):
        assert isinstance(jungfrau, protocol), protocol
    assert jungfrau.hints["fields"] == ["jf_total"]


def test_device_when_made_then_contacts_nothing_and_when_unstaged_leaves_nothing(tmp_path, make):
    before = set(threading.enumerate())
    Jungfrau(["tcp://127.0.0.1:1"], name="jf", directory=tmp_path, detector_name=NAME)
    assert set(threading.enumerate()) <= before
    jungfrau = make()
    jungfrau.stage()
    assert set(threading.enumerate()) - before
    jungfrau.unstage()
    jungfrau.unstage()
    assert set(threading.enumerate()) <= before and not list(tmp_path.iterdir())


def test_stage_when_nobody_sends_then_fails_in_time_and_the_engine_goes_on(engine, tmp_path, part, make):
    deaf = Jungfrau(["tcp://127.0.0.1:1"], name="jf", directory=tmp_path, detector_name=NAME)
    deaf.connect_timeout.put(0.2)
    with pytest.raises(ServiceTimeout, match="connecting to tcp://127.0.0.1:1"):
        engine(bp.count([deaf]))
    engine(bp.count([make()]))
    check_rows(engine, part)


def test_trigger_when_frames_stop_then_fails_in_time_and_says_what_came_last(engine, part, make):
    jungfrau = make()
    jungfrau.timeout.put(0.3)
    part.stop_acquisition()
    try:
        with pytest.raises(FailedStatus):
            engine(bp.count([jungfrau]))
    finally:
        part.start_acquisition()
    reason = engine.named("stop")[0]["reason"]
    assert "jf: 0 of 1 frames came" in reason and "0.3 s" in reason
    jungfrau.timeout.put(30.0)
    engine(bp.count([jungfrau]))
    check_rows(engine, part)


def test_raw_and_assembled_devices_when_flown_together_then_the_same_pulse_has_the_same_pixels(
    engine, part, make, tmp_path
):
    one = make()
    other = Jungfrau(
        part.assembled_endpoint, name="whole", directory=tmp_path, detector_name=NAME, stream="assembled"
    )
    engine(bp.count([one, other], 2))
    for row, image, whole in zip(engine.rows, engine.images(), engine.images("whole_image")):
        assert np.array_equal(whole, part.scene.raw(row["whole_pulse_id"]))
        if row["jf_event_id"] == row["whole_event_id"]:
            assert np.array_equal(image, whole)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stream": "both"}, "stream"),
        ({"event_id": "pulse id"}, "event_id"),
        ({"detector_name": "JF1"}, "detector_name"),
        ({"stream": "assembled", "disabled_modules": (1,)}, "disabled_modules"),
        ({"stream_options": {"patience": 3}}, "stream_options"),
        ({"rate_multiplicator": 3}, "rate_multiplicator"),
        ({"stream": "assembled", "stream_options": {"n_packets": 64}}, "stream_options"),
        ({"stream_options": {"incomplete": "maybe"}}, "incomplete"),
        ({"endpoints": []}, "endpoints"),
        ({"disabled_modules": (1,)}, "converted_shape, disabled_modules, pull"),
        ({"stream": "assembled", "endpoints": ["tcp://a:1", "tcp://a:2"]}, "endpoint"),
    ],
)
def test_device_when_arguments_are_wrong_then_names_them(tmp_path, options, field):
    arguments = {"endpoints": ["tcp://127.0.0.1:1"], "detector_name": NAME} | options
    with pytest.raises(RequestError) as error:
        Jungfrau(arguments.pop("endpoints"), name="jf", directory=tmp_path, **arguments)
    assert error.value.field == field


def test_calibration_when_of_another_detector_or_while_staged_then_is_refused(tmp_path, make, calibration):
    other = Jungfrau(["tcp://127.0.0.1:1"], name="jf", directory=tmp_path, detector_name="JF03T01V02")
    with pytest.raises(RequestError, match="one for JF03T01V02"):
        other.use_calibration(calibration)
    jungfrau = make()
    jungfrau.image_kind.put("calibrated")
    with pytest.raises(RequestError, match="there are no constants"):
        jungfrau.stage()
    jungfrau.use_calibration(None)
    jungfrau.stage()
    try:
        with pytest.raises(DetectorStateError, match="unstage it first"):
            jungfrau.use_calibration(calibration)
    finally:
        jungfrau.unstage()


def test_calibration_when_for_other_modules_than_the_stream_has_then_refused(tmp_path):
    gain, pedestal = np.ones((4, 1536, 1024), "f4"), np.zeros((3, 1536, 1024), "f4")
    calibration = JungfrauCalibration("JF01T03V01", gain, pedestal, engine="numpy")
    options = {"detector_name": "JF01T03V01", "stream": "assembled", "disabled_modules": (1,)}
    jungfrau = Jungfrau("tcp://a:1", name="jf", directory=tmp_path, **options)
    with pytest.raises(RequestError, match=r"module_map \(0, 1, 2\).*expected \(0, -1, 1\)"):
        jungfrau.use_calibration(calibration)
    jungfrau.use_calibration(calibration.with_options(module_map=(0, -1, 1)))


def test_control_when_given_then_is_prepared_at_stage_and_restored_at_unstage(engine, make):
    class Control:
        calls, in_force = [], {}

        def prepare(self):
            self.calls.append("prepare")

        def restore(self):
            self.calls.append("restore")

    engine(bp.count([make(control=Control())]))
    assert Control.calls[0] == "prepare" and Control.calls[-1] == "restore"

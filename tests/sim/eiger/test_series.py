"""Series, triggers and frames of the simulated detector, and what is on them."""

from __future__ import annotations

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.eiger.frames import EigerScene
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire import tiff
from sfdaq_ophyd.wire.simplon import decode_darray
from sfdaq_ophyd.wire.ulid import ulid_time_ns

from .conftest import Rest, arm, images, take


def test_series_when_run_then_numbers_count_up_and_restart_at_initialize(rest):
    assert [arm(rest) for _ in range(3)] == [1, 2, 3]
    ulid = rest.value("detector/status/series_unique_id")
    date = rest.value("detector/config/data_collection_date")
    assert len(date) == 29 and ulid_time_ns(ulid) > 0
    rest.command("detector/command/disarm")
    rest.command("detector/command/initialize")
    assert rest.value("detector/config/count_time") == 0.5
    assert arm(rest) == 1


def test_series_when_every_trigger_is_done_then_it_ends_by_itself(rest):
    series_id = take(rest, nimages=3, ntrigger=2)
    assert rest.state() == "ready"
    assert rest.command("detector/command/trigger") == series_id
    assert rest.state() == "idle"
    assert rest.put("detector/command/trigger").status_code == 500
    frames = images(rest, 6)
    assert [(frame.series_id, frame.image_id) for frame in frames] == [(series_id, k) for k in range(6)]
    assert [read_stamp(frame.image) for frame in frames] == [
        rest.part.stamp_of(series_id, k) for k in range(6)
    ]
    assert rest.get("monitor/images/next?timeout=0").status_code == 408


def test_frames_when_taken_then_times_are_one_frame_time_apart(rest):
    rest.set("detector/config/frame_time", 0.01)
    take(rest, nimages=4)
    times = np.array([frame.time_ns for frame in images(rest, 4)]) / 1e9
    np.testing.assert_allclose(np.diff(times), 0.01, atol=0.0011)


def test_trigger_when_blocking_then_other_requests_are_served_and_abort_ends_it(rest, wait_for):
    rest.set("detector/config/frame_time", 600.0)
    arm(rest, nimages=10)
    codes = []
    other = Rest(rest.part)
    thread = threading.Thread(target=lambda: codes.append(other.put("detector/command/trigger").status_code))
    thread.start()
    wait_for(lambda: rest.state() == "acquire", "acquire")
    assert rest.put("detector/command/arm").status_code == 500
    rest.command("detector/command/abort")
    thread.join(60)
    assert codes == [200] and rest.state() == "idle"
    assert rest.get("monitor/images").json() == []


def test_cancel_when_an_image_is_exposed_then_it_comes_out_before_the_series_ends(rest, wait_for):
    rest.set("detector/config/frame_time", 0.5)
    series_id = arm(rest, nimages=1000, ntrigger=2)
    with ThreadPoolExecutor(1) as pool:
        triggered = pool.submit(Rest(rest.part).command, "detector/command/trigger")
        wait_for(lambda: rest.state() == "acquire", "acquire")
        assert rest.command("detector/command/cancel") == series_id
        assert rest.state() == "idle" and triggered.result(60) == series_id
    ((series, ids),) = rest.get("monitor/images").json()
    assert series == series_id and ids == list(range(len(ids))) and len(ids) < 1000
    assert arm(rest) == series_id + 1


def test_cancel_when_the_series_is_aborted_meanwhile_then_it_ends_at_once(rest, wait_for):
    rest.set("detector/config/frame_time", 100.0)
    arm(rest, nimages=10)
    with ThreadPoolExecutor(2) as pool:
        triggered = pool.submit(Rest(rest.part).command, "detector/command/trigger")
        wait_for(lambda: rest.state() == "acquire", "acquire")
        cancelled = pool.submit(Rest(rest.part).command, "detector/command/cancel")
        wait_for(lambda: rest.part.detector.series.cancelled, "cancel waits for the image")
        rest.command("detector/command/abort")
        assert cancelled.result(60) == triggered.result(60) == 1
    assert rest.state() == "idle" and rest.get("monitor/images").json() == []


@pytest.mark.parametrize("command", ["disarm", "cancel", "abort"])
def test_end_of_series_when_idle_already_then_harmless(rest, command):
    assert rest.put(f"detector/command/{command}").status_code == 200
    assert rest.state() == "idle"


def test_exts_when_edges_come_then_frames_and_the_command_is_refused(rest, wait_for):
    arm(rest, nimages=2, ntrigger=2, mode="exts")
    assert rest.put("detector/command/trigger").status_code == 500
    rest.part.edge()
    assert [frame.image_id for frame in images(rest, 2)] == [0, 1]
    wait_for(lambda: rest.state() == "ready", "ready for the second edge")
    rest.part.edge()
    images(rest, 2)
    wait_for(lambda: rest.state() == "idle", "idle")


def test_exte_when_a_gate_comes_then_one_frame_of_its_width(rest):
    arm(rest, nimages=7, ntrigger=1, mode="exte")
    rest.part.edge(0.01)
    frame = images(rest, 1)[0]
    assert frame.private["exposure_time"] == 0.01
    assert rest.get("monitor/images/next?timeout=50").status_code == 408


def test_inte_when_triggered_with_a_time_then_one_frame_of_it(rest):
    arm(rest, nimages=5, ntrigger=2, mode="inte")
    rest.command("detector/command/trigger", 0.02)
    rest.command("detector/command/trigger")
    assert [frame.private["exposure_time"] for frame in images(rest, 2)] == [
        0.02,
        pytest.approx(0.002, rel=1e-3),
    ]


def test_om_when_it_sets_up_and_polls_then_it_gets_series_frame_and_time(rest):
    for name, value in (("mode", "enabled"), ("discard_new", False), ("buffer_size", 10)):
        assert rest.put(f"monitor/config/{name}", value).status_code == 200
    series_id = take(rest)
    reply = rest.get("monitor/images/next")
    assert reply.headers["Content-Type"] == "image/tiff"
    ids = np.frombuffer(reply.content, "<i4", 4, 42)
    assert (ids[0], ids[3]) == (series_id, 0)
    assert len(reply.content[162:191].decode()) == 29
    assert reply.content[162:191].decode()[-6] in "+-"


@pytest.mark.parametrize(("profile", "version"), [("om", "1.8.0"), ("v2024", "1.8.0"), ("legacy16", "1.6.0")])
def test_image_when_read_by_other_libraries_then_the_pixels_agree(make_part, tmp_path, profile, version):
    rest = Rest(make_part(initialized=True, profile=profile, api_version=version), version)
    rest.set("detector/config/frame_time", 0.02)
    rest.set("monitor/config/mode", "enabled")
    take(rest)
    reply = rest.get("monitor/images/monitor")
    image = tiff.decode(reply.content).image
    path = tmp_path / "frame.tif"
    path.write_bytes(reply.content)
    np.testing.assert_array_equal(tifffile.imread(path), image)
    if profile != "legacy16":
        with Image.open(path) as opened:
            np.testing.assert_array_equal(np.asarray(opened).view("u4"), image)
    assert reply.headers["Content-Type"] == ("image/tiff" if version == "1.8.0" else "application/tiff")


def test_images_when_asked_by_id_then_given_and_not_removed(rest):
    series_id = take(rest, nimages=2)
    for _ in range(2):
        reply = rest.get(f"monitor/images/{series_id}/1")
        assert tiff.decode(reply.content).image_id == 1
    assert rest.get(f"monitor/images/{series_id}/1/1").status_code == 200
    assert rest.get(f"monitor/images/{series_id}/9").status_code == 404
    assert rest.get("monitor/images/").json() == [[series_id, [0, 1]]]
    assert rest.value("monitor/status/buffer_fill_level") == [2, 100]


def test_thresholds_when_both_enabled_then_one_image_each_lowest_first(rest):
    rest.set("detector/config/threshold/2/mode", "enabled")
    take(rest)
    assert rest.value("monitor/status/buffer_fill_level") == [1, 100]
    assert [frame.private["threshold_id"] for frame in images(rest, 2)] == [1, 2]


def test_image_when_only_the_second_threshold_is_enabled_then_it_is_found_without_its_name(rest):
    rest.set("detector/config/threshold/2/mode", "enabled")
    rest.set("detector/config/threshold/1/mode", "disabled")
    series_id = take(rest)
    reply = rest.get(f"monitor/images/{series_id}/0")
    assert reply.status_code == 200 and tiff.decode(reply.content).private["threshold_id"] == 2
    assert rest.get(f"monitor/images/{series_id}/0/1").status_code == 404


def test_scene_when_drawn_then_gaps_are_flagged_the_beam_stop_is_dark_and_noise_differs(make_part):
    rest = Rest(make_part(shape=(200, 300), initialized=True))
    rest.set("monitor/config/mode", "enabled")
    arm(rest, nimages=2)
    rest.set("detector/config/frame_time", 0.02)
    take(rest, nimages=2)
    first, second = (frame.image for frame in images(rest, 2))
    mask = decode_darray(rest.value("detector/config/pixel_mask"))
    assert ((first == 2**32 - 1) == (mask != 0)).all() and (mask == 1).sum() == 600
    assert first[97:99, 148:153].max() == 0
    assert (first[1:] != second[1:]).mean() > 0.3
    assert first[mask == 0].max() == rest.value("detector/config/countrate_correction_count_cutoff") + 1


def test_scene_when_seeded_alike_then_it_is_the_same(make_part):
    def image():
        rest = Rest(make_part(initialized=True))
        rest.set("monitor/config/mode", "enabled")
        rest.set("detector/config/frame_time", 0.02)
        take(rest)
        return images(rest, 1)[0].image

    np.testing.assert_array_equal(image(), image())


def test_outputs_when_enabled_then_state_and_counters_do_not_lie(rest):
    assert rest.value("filewriter/status/state") == rest.value("stream/status/state") == "disabled"
    rest.stream()
    rest.set("filewriter/config/mode", "enabled")
    arm(rest, nimages=3)
    assert rest.value("stream/status/state") == "acquire"
    rest.command("detector/command/trigger")
    assert rest.value("stream/status/dropped") == 3  # nobody listened
    names = ["series_1_master.h5", "series_1_data_000001.h5"]
    assert rest.value("filewriter/status/files") == rest.get("filewriter/files/").json() == names
    for method in ("GET", "HEAD", "DELETE"):
        reply = rest.session.request(method, f"{rest.part.url}/data/series_2_master.h5", timeout=60)
        assert reply.status_code == 404


@pytest.mark.parametrize("output", ["filewriter", "stream"])
def test_output_when_its_mode_changes_in_a_series_then_the_state_changes_at_its_end(rest, output):
    rest.set(f"{output}/config/mode", "enabled")
    arm(rest)
    rest.set(f"{output}/config/mode", "disabled")
    assert rest.value(f"{output}/status/state") == "acquire"
    rest.command("detector/command/disarm")
    assert rest.value(f"{output}/status/state") == "disabled"
    arm(rest)
    rest.set(f"{output}/config/mode", "enabled")
    assert rest.value(f"{output}/status/state") == "ready"


def test_first_generation_when_chosen_then_it_has_its_own_names_and_no_new_ones(make_part):
    rest = Rest(make_part(initialized=True, api_version="1.6.0"), "1.6.0")
    assert rest.value("detector/config/bit_depth_readout") == 12
    assert "EIGER2" not in rest.value("detector/config/description")
    for path in (
        "detector/config/threshold/2/mode",
        "monitor/config/discard_new",
        "detector/status/series_unique_id",
    ):
        assert rest.get(path).status_code == 404, path
    assert rest.put("detector/command/status_update").status_code == 200
    rest.set("monitor/config/mode", "enabled")
    rest.set("detector/config/frame_time", 0.02)
    series_id = take(rest, nimages=2)
    assert rest.get("monitor/images/next").status_code == 200
    assert rest.value("monitor/status/next_image_number")[:2] == [series_id, 0]


def test_adeiger_when_it_starts_and_acquires_in_its_order_then_every_call_succeeds(make_part):
    part = make_part()
    connection = http.client.HTTPConnection(part.url.removeprefix("http://"), timeout=60)
    headers = {"Content-Type": "application/json;charset=utf-8", "Accept": "application/json"}

    def call(method, path, value=None):
        body = b"" if value is None else json.dumps({"value": value}).encode()
        connection.request(method, path, body, headers | {"Content-Length": str(len(body))})
        reply = connection.getresponse()
        assert reply.status == 200, (path, reply.read())
        return reply.read()

    detector, monitor = "/detector/api/1.8.0", "/monitor/api/1.8.0"
    assert json.loads(call("GET", "/detector/api/version"))["value"] == "1.8.0"
    assert json.loads(call("GET", f"{detector}/status/state"))["value"] == "na"
    for command in ("initialize", "arm", "disarm"):
        call("PUT", f"{detector}/command/{command}")
    assert "EIGER2" in json.loads(call("GET", f"{detector}/config/description"))["value"]
    call("PUT", f"{monitor}/config/mode", "disabled")
    call("PUT", f"{detector}/config/auto_summation", True)
    call("PUT", "/filewriter/api/1.8.0/config/image_nr_start", 1)
    call("PUT", f"{monitor}/config/buffer_size", 1)
    call("PUT", f"{monitor}/config/mode", "enabled")
    for name, value in (("count_time", 0.01), ("frame_time", 0.01), ("nimages", 2), ("ntrigger", 2)):
        call("PUT", f"{detector}/config/{name}", value)
    series_id = json.loads(call("PUT", f"{detector}/command/arm"))["sequence id"]
    for _ in range(2):
        call("PUT", f"{detector}/command/trigger")
    assert json.loads(call("GET", f"{detector}/status/state"))["value"] == "idle"
    call("PUT", f"{detector}/command/disarm")
    frame = tiff.decode(call("GET", f"{monitor}/images/monitor?timeout=30000"))
    assert (frame.series_id, frame.image_id) == (series_id, 3)
    connection.close()


def test_series_when_the_facility_is_patient_then_no_frame_is_dropped_for_a_slow_reader():
    with Facility(speed="auto", only=["eiger"], eiger_shape=(32, 48), eiger_initialized=True) as facility:
        rest = Rest(facility.eiger)
        rest.set("monitor/config/mode", "enabled")
        rest.set("monitor/config/buffer_size", 3)
        rest.set("detector/config/count_time", 0.002)
        rest.set("detector/config/frame_time", 0.002)
        arm(rest, nimages=12)
        assert rest.get("monitor/images/next?timeout=0").status_code == 408, "a reader is there"
        with ThreadPoolExecutor(1) as pool:
            triggered = pool.submit(Rest(facility.eiger).command, "detector/command/trigger")
            seen = images(rest, 1)
            for _ in range(11):
                status = rest.value("monitor/status/buffer_fill_level")
                assert status[0] <= 3
                seen += images(rest, 1)
            triggered.result(60)
        assert [frame.image_id for frame in seen] == list(range(12))
        assert rest.value("monitor/status/dropped") == 0
        times = [frame.time_ns for frame in seen]
        assert all(later - earlier >= 1.9e6 for earlier, later in zip(times, times[1:]))


@pytest.fixture(scope="module")
def scene():
    options = {"energy_ev": 8047.78, "distance": 0.05, "masked_value": 65535, "mask_version": 1, "seed": 3}
    return EigerScene((600, 700), 16, 0.5, 5000, beam_center=(350.0, 300.0), **options)


@pytest.fixture(scope="module")
def mask(scene):
    mask = np.zeros(scene.shape, "u4")
    mask[100:120] = 1
    return mask


def test_render_when_drawn_then_each_ring_has_the_mean_and_the_variance_of_its_rate(scene, mask):
    images = scene.render(mask)
    y, x = np.indices(scene.shape)
    distance = np.hypot(x - 350, y - 300).astype(int)
    rates = scene._radial_profile() * scene.count_time
    for r in (60, 120, 200, 250):
        pixels = np.stack([image[(distance == r) & (mask == 0)] for image in images]).astype("f8")
        pixels = pixels[pixels < 2 * rates[r] + 50]  # without the peaks
        assert pixels.mean() == pytest.approx(rates[r], rel=0.05)
        assert pixels.var() == pytest.approx(rates[r], rel=0.5)


def test_render_when_repeated_then_the_same_and_its_images_differ_from_one_another(scene, mask):
    images = scene.render(mask)
    assert all(np.array_equal(one, other) for one, other in zip(images, scene.render(mask)))
    assert not any(np.array_equal(images[0], other) for other in images[1:])
    assert all((image[100:120] == 65535).all() and image.dtype == "u2" for image in images)

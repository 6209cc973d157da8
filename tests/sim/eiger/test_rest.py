"""The simulated detector's REST interface: the contract's checklist, section 13."""

from __future__ import annotations

import io
import socket

import numpy as np
import pytest
import tifffile

from sfdaq_ophyd.sim.eiger.parameters import make_geometry
from sfdaq_ophyd.wire.simplon import decode_darray, encode_darray
from sfdaq_ophyd.wire.tiff_write import encode

from .conftest import Rest, arm, images, take

ADEIGER_READS = {
    "detector/config": "description wavelength photon_energy threshold_energy ntrigger compression roi_mode"
    " auto_summation count_time frame_time nimages trigger_mode software_version eiger_fw_version"
    " detector_number x_pixels_in_detector y_pixels_in_detector x_pixel_size y_pixel_size threshold/1/mode"
    " threshold/2/energy threshold/2/mode threshold/difference/mode trigger_start_delay extg_mode nexpi",
    "detector/status": "state error board_000/th0_temp board_000/th0_humidity high_voltage/state",
    "filewriter/config": "mode compression_enabled name_pattern nimages_per_file image_nr_start format",
    "filewriter/status": "state buffer_free",
    "monitor/config": "mode buffer_size",
    "monitor/status": "state",
    "stream/config": "mode format",
    "stream/status": "state dropped",
}


def test_version_when_asked_with_and_without_slash_then_it_is_the_same(rest):
    for module in ("detector", "monitor", "stream", "filewriter", "system"):
        for path in ("version", "version/"):
            reply = rest.session.get(f"{rest.part.url}/{module}/api/{path}", timeout=60)
            assert reply.json() == {"value": "1.8.0", "value_type": "string"}


def test_power_up_when_not_initialized_then_only_the_state_is_there(make_part):
    rest = Rest(make_part())
    assert rest.state() == "na"
    reply = rest.get("detector/config/count_time")
    assert (reply.status_code, reply.text) == (404, "Parameter count_time does not exist")
    assert rest.put("detector/config/nimages", 2).status_code == 404
    assert rest.put("detector/command/arm").status_code == 500
    reply = rest.put("detector/command/initialize")
    assert (reply.status_code, reply.content) == (200, b"")
    assert rest.state() == "idle"


@pytest.mark.parametrize(
    "path", [f"{folder}/{name}" for folder, names in ADEIGER_READS.items() for name in names.split()]
)
def test_header_and_body_when_adeiger_reads_then_one_recv_of_512_bytes_is_enough(shared_rest, path):
    address = shared_rest.part.url.removeprefix("http://").split(":")
    module, _, name = path.partition("/")
    with socket.create_connection((address[0], int(address[1])), timeout=60) as sock:
        request = f"GET /{module}/api/1.8.0/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        sock.sendall(request.encode())
        reply = sock.recv(512)
    head, _, body = reply.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    assert b" 200 " in head.split(b"\r\n")[0]
    assert int(lengths[0].split(b":")[1]) == len(body) > 0


def test_keys_when_listed_then_every_name_can_be_read_and_has_a_type_fastcs_takes(shared_rest):
    types = {"float", "int", "bool", "uint", "string", "datetime", "State", "string[]"}
    for module, task in (
        ("detector", "config"),
        ("detector", "status"),
        ("stream", "config"),
        ("stream", "status"),
    ):
        names = shared_rest.get(f"{module}/{task}/keys").json()
        assert names
        for name in names:
            reply = shared_rest.get(f"{module}/{task}/{name}").json()
            assert reply["value_type"] in types, (module, task, name)


def test_names_that_are_not_listed_when_read_then_they_exist(shared_rest):
    listed = shared_rest.get("detector/config/keys").json()
    assert "wavelength" not in listed and "pixel_mask" not in listed
    for name in ("config/wavelength", "config/detector_translation", "status/error"):
        assert shared_rest.get(f"detector/{name}").status_code == 200
    assert shared_rest.get("stream/status/error").status_code == 200


def test_difference_when_a_threshold_is_not_enabled_then_refused_or_off_again(rest):
    name = "detector/config/threshold/difference/mode"
    assert rest.put(name, "enabled").status_code == 400 and rest.value(name) == "disabled"
    rest.set("detector/config/threshold/2/mode", "enabled")
    rest.set(name, "enabled")
    rest.set("detector/config/threshold/1/mode", "disabled")
    assert rest.value(name) == "disabled"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("count_time", 0.1)], {"frame_time": 0.5000001, "bit_depth_image": 32}),
        ([("count_time", 2.0)], {"frame_time": 2.0000001}),
        ([("frame_time", 0.1)], {"count_time": 0.0999999}),
        ([("frame_time", 0.005)], {"bit_depth_image": 16, "countrate_correction_count_cutoff": 25000}),
        ([("frame_time", 0.0004)], {"bit_depth_image": 8}),
        ([("photon_energy", 12700.0)], {"threshold_energy": 6350.0, "threshold/1/energy": 6350.0}),
        ([("photon_energy", 12700.0)], {"element": "", "wavelength": 12398.42 / 12700}),
        ([("element", "Fe")], {"photon_energy": 6403.84, "element": "Fe"}),
        ([("wavelength", 1.0)], {"photon_energy": 12398.42}),
        ([("beam_center_x", 100.0), ("detector_distance", 0.2)],
         {"detector_translation": [0.0075, 0.0, -0.2]}),
        ([("detector_translation", [0.0075, 0.015, -0.3])],
         {"beam_center_y": 200.0, "detector_distance": 0.3}),
    ],
)  # fmt: skip
def test_config_when_one_value_is_set_then_those_that_depend_on_it_follow(make_part, changes, expected):
    rest = Rest(make_part(initialized=True))
    for name, value in changes:
        rest.set(f"detector/config/{name}", value)
    for name, value in expected.items():
        assert rest.value(f"detector/config/{name}") == pytest.approx(value), name


def test_roi_when_set_on_a_16m_then_sizes_and_times_follow(make_part):
    rest = Rest(make_part(shape=None, model="16M", initialized=True))
    assert rest.value("detector/config/number_of_excluded_pixels") == 1253074
    assert rest.set("detector/config/roi_mode", "4M-L") == ["count_time", "frame_time", "roi_mode"]
    size = [rest.value(f"detector/config/{axis}_pixels_in_detector") for axis in "yx"]
    assert size == [2162, 2068]


@pytest.mark.parametrize(
    ("model", "version", "shape"),
    [
        ("500K", "1.8.0", (512, 1028)), ("1M", "1.8.0", (1062, 1028)), ("4M", "1.8.0", (2162, 2068)),
        ("9M", "1.8.0", (3262, 3108)), ("16M", "1.8.0", (4362, 4148)), ("500K", "1.6.0", (514, 1030)),
        ("1M", "1.6.0", (1065, 1030)), ("16M", "1.6.0", (4371, 4150)),
    ],
)  # fmt: skip
def test_model_when_chosen_then_its_size_is_the_vendors(model, version, shape):
    assert make_geometry(model, version).shape == shape


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count_time", 0), ("count_time", "1"), ("count_time", 4000), ("nimages", 0), ("nimages", 1.5),
        ("trigger_mode", "now"), ("bit_depth_image", 16), ("auto_summation", 1), ("photon_energy", 1.0),
        ("detector_translation", [1, 2]),
    ],
)  # fmt: skip
def test_put_when_the_value_is_bad_then_400_and_nothing_changes(shared_rest, name, value):
    before = shared_rest.value(f"detector/config/{name}")
    assert shared_rest.put(f"detector/config/{name}", value).status_code == 400
    assert shared_rest.value(f"detector/config/{name}") == before


def test_put_when_malformed_or_unknown_then_400_or_404(shared_rest):
    url = shared_rest.url("detector/config/nimages")
    assert shared_rest.session.put(url, data="{value:", timeout=60).status_code == 400
    assert shared_rest.session.put(url, data="[1]", timeout=60).status_code == 400
    assert shared_rest.put("detector/config/nothing", 1).status_code == 404
    assert shared_rest.put("detector/command/nothing").status_code == 404
    assert shared_rest.get("telescope/status/state").status_code == 404
    assert Rest(shared_rest.part, "1.7.0").get("detector/status/state").status_code == 404


def test_commands_when_sent_with_each_form_of_no_argument_then_accepted_and_with_one_404(rest):
    url = rest.url("detector/command/disarm")
    for body, headers in ((b"", {}), (b"{}", {}), (b"''", {"Content-type": "text/html"})):
        assert rest.session.put(url, data=body, headers=headers, timeout=60).status_code == 200
    for value in ({"value": None}, {"value": 1}):
        reply = rest.session.put(url, json=value, timeout=60)
        assert (reply.status_code, reply.text) == (
            404,
            'error during request: path error: unknown path: "disarm"',
        )


def test_several_values_when_put_at_once_then_all_are_set(rest):
    url = rest.url("stream/config").rstrip("/")
    reply = rest.session.put(
        url, json={"mode": {"value": "enabled"}, "format": {"value": "cbor"}}, timeout=60
    )
    assert (reply.status_code, reply.json()) == (200, [])
    assert rest.value("stream/config/format") == "cbor"


def test_pixel_mask_when_written_then_frames_show_it_and_delete_restores_it(rest):
    mask = decode_darray(rest.value("detector/config/pixel_mask")).copy()
    assert mask.shape == (32, 48)
    n_before = rest.value("detector/config/number_of_excluded_pixels")
    mask[20, 30] = 16
    assert rest.set("detector/config/pixel_mask", encode_darray(mask)) == [
        "pixel_mask",
        "threshold/1/pixel_mask",
    ]
    assert rest.value("detector/config/number_of_excluded_pixels") == n_before + 1
    take(rest)
    image = images(rest, 1)[0].image
    assert image[20, 30] == 2 ** (8 * image.itemsize) - 1
    assert rest.session.delete(rest.url("detector/config/pixel_mask"), timeout=60).status_code == 200
    assert rest.value("detector/config/number_of_excluded_pixels") == n_before
    assert rest.session.delete(rest.url("detector/config/nimages"), timeout=60).status_code == 404
    assert rest.put("detector/config/pixel_mask", encode_darray(mask[:4])).status_code == 400


@pytest.mark.parametrize("again", ["initialize", "restart"])
def test_pixel_mask_when_armed_then_it_is_kept_until_it_is_deleted(rest, again):
    def begin_again():
        if again == "restart":
            rest.part.restart()
        rest.command("detector/command/initialize")
        return decode_darray(rest.value("detector/config/pixel_mask"))

    default = decode_darray(rest.value("detector/config/pixel_mask"))
    armed, unarmed = default.copy(), default.copy()
    armed[20, 30], unarmed[21, 31] = 16, 16
    rest.set("detector/config/pixel_mask", encode_darray(armed))
    arm(rest)
    rest.set("detector/config/pixel_mask", encode_darray(unarmed))
    np.testing.assert_array_equal(begin_again(), armed)
    assert rest.value("detector/config/number_of_excluded_pixels") == np.count_nonzero(armed)
    assert rest.session.delete(rest.url("detector/config/pixel_mask"), timeout=60).status_code == 200
    np.testing.assert_array_equal(decode_darray(rest.value("detector/config/pixel_mask")), default)
    arm(rest)
    np.testing.assert_array_equal(begin_again(), default)


def test_commands_of_the_vendors_clients_when_sent_then_taken(rest):
    """sim-simplon-commands: what DECTRIS' client and ADEiger send."""
    rest.set("stream/config/mode", "enabled")
    assert rest.put("stream/command/initialize").status_code == 200
    assert rest.value("stream/config/mode") == "disabled"
    assert rest.put("detector/command/hv_reset", 10).status_code == 200
    assert rest.put("detector/command/hv_reset").status_code == 200
    for wrong in (0, 601, "10", True):
        assert rest.put("detector/command/hv_reset", wrong).status_code == 400


@pytest.mark.parametrize("accept", ["image/tiff", "application/tiff", "image/tiff, */*;q=0.1"])
@pytest.mark.parametrize(
    ("name", "kind"), [("pixel_mask", "<u4"), ("flatfield", "<f4"), ("threshold/1/pixel_mask", "<u4")]
)
def test_array_when_asked_as_tiff_then_a_tiff_of_it(rest, accept, name, kind):
    """sim-simplon-commands: TIFF is the only form the reference supports."""
    reply = rest.get(f"detector/config/{name}", headers={"Accept": accept})
    assert reply.headers["Content-Type"] in accept
    array = tifffile.imread(io.BytesIO(reply.content))
    assert array.dtype == kind
    assert np.array_equal(array, decode_darray(rest.value(f"detector/config/{name}")))


def test_pixel_mask_when_put_as_tiff_then_taken(rest):
    mask = decode_darray(rest.value("detector/config/pixel_mask")).copy()
    mask[3, 4] = 8
    reply = rest.put("detector/config/pixel_mask", data=encode(mask), headers={"Content-Type": "image/tiff"})
    assert reply.status_code == 200 and "pixel_mask" in reply.json()
    assert np.array_equal(decode_darray(rest.value("detector/config/pixel_mask")), mask)
    for body in (b"no tiff", encode(mask[:4])):
        reply = rest.put("detector/config/pixel_mask", data=body, headers={"Content-Type": "image/tiff"})
        assert reply.status_code == 400


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Host": "evil.example"}),
        ("PUT", {"Origin": "http://evil.example"}),
        ("OPTIONS", {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}),
    ],
)
def test_request_when_a_foreign_page_made_it_then_refused_and_nothing_done(rest, method, headers):
    url = rest.url("detector/command/initialize" if method == "PUT" else "detector/config/count_time")
    series = arm(rest)
    reply = rest.session.request(method, url, headers=headers, timeout=60)
    assert reply.status_code == 403 and not [key for key in reply.headers if key.startswith("Access-Control")]
    assert arm(rest) == series + 1, "a detector that was initialized would begin at 1"


def test_request_log_when_bodies_are_long_and_many_then_bounded(rest, monkeypatch):
    log = rest.part.requests
    rest.put("detector/config/sample_name", "x" * 100_000)
    assert len(log.entries()[-1].body) == 4096
    for n in range(10_100):
        log.append(n)
    assert len(log.entries()) == 10_000 and log.entries()[-1] == 10_099


def test_body_when_nested_deeply_then_refused(rest):
    reply = rest.put(
        "detector/config/nimages", data="[" * 100_000, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 400

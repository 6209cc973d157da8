"""An Eiger behind servers that are odd: gateways, other API servers, moments of absence."""

from __future__ import annotations

import json
import logging
import math

import bluesky.plans as bp
import numpy as np
import pytest

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.errors import RequestError, ServiceRefused, ServiceTimeout
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.wire.simplon import DetectorState
from sfdaq_ophyd.wire.tiff_write import TiffTags, encode

from ...http_peer import forward, relay, reply_with, serving
from ..run_engine_driver import check_run, drive, interruptible, streams
from .conftest import make_eiger, stamp_of
from .stream_line import rows_of

NOT_FOUND = reply_with(404, b"404 Not Found", "text/plain")


def through(part, *, refuse=NOT_FOUND, when=lambda path: False):
    """Serve what the simulated detector does, but for some paths."""

    def answer(handler):
        refuse(handler) if when(handler.path) else forward(handler, part.url)

    return serving(answer)


def make(url, directory, **options):
    eiger = Eiger(url, name="eiger", directory=directory, timeout=60, **options)
    eiger.timeout.put(30.0)
    return eiger


def test_scan_when_the_detector_is_behind_a_gateway_then_every_request_has_path_and_login(
    part, tmp_path, caplog
):
    """Found as `eiger-url-prefix-auth`, and for the password as `password-in-messages`."""
    seen = []

    def gateway(handler):
        seen.append((handler.path, handler.headers.get("Authorization")))
        forward(handler, part.url, handler.path.removeprefix("/eiger1"))

    with serving(gateway) as url, caplog.at_level(logging.DEBUG):
        eiger = make(url.replace("//", "//me:s3cret@") + "/eiger1", tmp_path)
        eiger.exposure_time.put(0.002)
        run = drive(interruptible(), lambda: bp.count([eiger], 2))
    assert run.stop["exit_status"] == "success", run.error
    assert len(streams(run)["primary"].rows) == 2
    assert {path[:8] for path, _ in seen} == {"/eiger1/"}
    assert len({login for _, login in seen}) == 1 and seen[0][1].startswith("Basic ")
    assert "s3cret" not in f"{run.documents} {caplog.text} {eiger!r}"


def test_point_when_the_server_is_away_for_a_moment_then_it_is_waited_out(part, tmp_path):
    """Found as `eiger-503-once`."""
    eiger = make_eiger(part, tmp_path, exposure_time=0.05)
    part.fail_next("error", code=503, text="Service Unavailable", path="images/next", count=2)
    run = drive(interruptible(), lambda: bp.count([eiger], 1))
    assert run.stop["exit_status"] == "success", run.error


def test_connection_when_the_server_does_not_tell_its_version_then_it_is_said_what_to_give(part, tmp_path):
    """Found as `eiger-version-endpoint`."""
    with through(part, when=lambda path: "/api/version" in path) as url:
        eiger = make(url, tmp_path)
        for call in (eiger.wait_for_connection, eiger.read_configuration, eiger.stage):
            with pytest.raises(RequestError, match="api_version=None: expected 1.8.0"):
                call()
        eiger = make(url, tmp_path, api_version="1.8.0")
        eiger.wait_for_connection()
        eiger.stage()
        eiger.unstage()


def test_configuration_when_the_server_cannot_be_read_then_an_error_and_no_nan(part, tmp_path):
    with through(part, when=lambda path: "/1.8.0/" in path) as url:
        eiger = make(url, tmp_path, api_version="1.8.0")
        for call in (eiger.wait_for_connection, eiger.read_configuration, eiger.photon_energy.get):
            with pytest.raises(ServiceRefused, match="404 Not Found"):
                call()


@pytest.mark.parametrize("odd", [reply_with(500, b"Internal Server Error"), reply_with(200, b"<html>")])
def test_configuration_when_one_parameter_is_odd_then_the_others_are_read(part, tmp_path, odd, caplog):
    with through(part, refuse=odd, when=lambda path: path.endswith("config/detector_distance")) as url:
        configuration = make(url, tmp_path, api_version="1.8.0").read_configuration()
    assert math.isnan(configuration["eiger_detector_distance"]["value"])
    assert configuration["eiger_photon_energy"]["value"] > 0
    assert "eiger_detector_distance: not read" in caplog.text


def test_wait_for_connection_when_nobody_answers_then_timeout_tells_what_came(tmp_path):
    eiger = make("http://127.0.0.1:9", tmp_path)
    with pytest.raises(ServiceTimeout, match="eiger: an answer of http://127.0.0.1:9.*Connection refused"):
        eiger.wait_for_connection(timeout=3.0)


# A server that has nothing but the monitor


def test_monitor_when_there_is_no_detector_module_then_the_images_say_it_all(tmp_path):
    """A server that has nothing but a monitor, as a proxy for displays may be."""
    frames = [encode(np.full((4, 8), k, "u2"), TiffTags(7, k, "0" * 26, k * 10**9)) for k in range(6)]
    with monitor_alone(frames) as url:
        eiger = Eiger(url + "/monitor/api/1.8.0", name="eiger", directory=tmp_path, timeout=60)
        run = drive(interruptible(), lambda: bp.count([eiger], 3))
    assert run.stop["exit_status"] == "success", run.error
    ids = [row["eiger_event_id"] for row in rows_of(run)]
    assert len(set(ids)) == 3 and [row["eiger_max"] for row in rows_of(run)] == [int(i[2:]) for i in ids]
    data = run.named("descriptor")[0]["configuration"]["eiger"]["data"]
    assert np.isnan(data["eiger_photon_energy"]) and data["eiger_state"] == ""


def monitor_alone(frames):
    """Serve ``images/next`` and ``config/mode``, and nothing else."""
    left = list(frames)

    def answer(handler):
        code, body = 404, b"404 Not Found"
        if "/monitor/api/1.8.0/images/next" in handler.path:
            code, body = (200, left.pop(0)) if left else (408, b"")
        elif handler.path.endswith("/monitor/api/1.8.0/config/mode"):
            code, body = 200, b'{"value": "enabled", "value_type": "string"}'
        reply_with(code, body)(handler)

    return serving(answer)


# First-generation detectors, whose images carry neither ids nor time


def test_legacy_detector_when_ids_are_refused_then_the_error_says_what_to_do(make_part, tmp_path):
    eiger = make_eiger(make_part(api_version="1.6.0"), tmp_path)
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "fail" and "legacy_ids" in run.stop["reason"]
    assert eiger.client.state() is DetectorState.IDLE


@pytest.mark.parametrize("plan", ["count", "fly"])
def test_legacy_detector_when_ids_come_from_the_status_then_they_are_true(make_part, tmp_path, plan):
    eiger = make_eiger(make_part(api_version="1.6.0"), tmp_path, legacy_ids="status")
    plans = {"count": lambda: bp.count([eiger], 3), "fly": lambda: fly([eiger], 3, period=0.01)}
    run = drive(interruptible(), plans[plan])
    check_run(run, 3, stamp_of=stamp_of)
    assert all(row["eiger_timestamp"] == row["eiger_receive_time"] for row in rows_of(run))
    data = run.named("descriptor")[0]["configuration"]["eiger"]["data"]
    assert (data["eiger_timestamp_source"], data["eiger_legacy_ids"]) == ("host", "status")


@pytest.mark.parametrize("policy", ["strict", "tolerant"])
def test_legacy_detector_when_another_client_takes_an_image_then_ours_has_not_its_id(
    make_part, tmp_path, policy
):
    """The ids are asked for after the image, and are then those of the other client's."""
    part = make_part(api_version="1.6.0")
    other, n_asked = SimplonClient(part.url), 0

    def hook(path, ask):
        nonlocal n_asked
        if path.endswith("monitor/api/1.6.0/status/next_image_number"):
            n_asked += 1
            if n_asked == 3:
                assert other.next_image(10.0) is not None
        return ask()

    make_eiger(part, tmp_path)  # short exposures
    with relay(part.url, hook) as url:
        eiger = make(url, tmp_path, legacy_ids="status")
        eiger.loss_policy.put(policy)
        run = drive(interruptible(), lambda: fly([eiger], 6, period=0.01))
    other.close()
    if policy == "strict":
        assert run.stop["exit_status"] == "fail" and "1_2" in run.stop["reason"]
        return
    check_run(run, 6, stamp_of=stamp_of)
    assert [bool(row["eiger_is_good"]) for row in rows_of(run)] == [True, True, False, False, True, True]


@pytest.mark.parametrize("ids_are_told", [True, False])
def test_legacy_detector_when_an_image_is_unreadable_then_that_one_is_missing(
    make_part, tmp_path, ids_are_told
):
    part, n_images = make_part(api_version="1.6.0"), 0

    def hook(path, ask):
        nonlocal n_images
        code, kind, body = ask()
        if "/images/next" in path and code == 200:
            n_images += 1
            body = b"no TIFF" if n_images == 3 else body
        if path.endswith("status/next_image_number") and n_images == 3 and not ids_are_told:
            return 404, "text/plain", b"404 Not Found"
        return code, kind, body

    make_eiger(part, tmp_path)  # short exposures
    with relay(part.url, hook) as url:
        eiger = make(url, tmp_path, legacy_ids="status")
        eiger.loss_policy.put("tolerant")
        run = drive(interruptible(), lambda: fly([eiger], 6, period=0.01))
    check_run(run, 6, stamp_of=stamp_of)
    good = [bool(row["eiger_is_good"]) for row in rows_of(run)]
    assert good == [True, True, False, ids_are_told, True, True]


def test_legacy_detector_when_frames_are_counted_here_then_the_ids_say_so(make_part, tmp_path):
    part = make_part(api_version="1.6.0")
    eiger = make_eiger(part, tmp_path, legacy_ids="local")
    run = drive(interruptible(), lambda: bp.count([eiger], 3))
    ids = [row["eiger_event_id"] for row in rows_of(run)]
    assert ids == ["local_1_0", "local_1_1", "local_1_2"]
    check_run(run, 3, stamp_of=lambda name: stamp_of(name.removeprefix("local_")))


def test_legacy_detector_when_it_calls_the_monitors_mode_bool_then_it_is_enabled(make_part, tmp_path):
    def hook(path, ask):
        code, kind, body = ask()
        if path.endswith("monitor/api/1.6.0/config/mode") and body.startswith(b"{"):
            told = json.loads(body)
            body = json.dumps({"access_mode": "rw", "value": told["value"], "value_type": "bool"}).encode()
        return code, kind, body

    part = make_part(api_version="1.6.0")
    make_eiger(part, tmp_path)  # short exposures
    with relay(part.url, hook) as url:
        run = drive(interruptible(), lambda: bp.count([make(url, tmp_path, legacy_ids="status")], 2))
    check_run(run, 2, stamp_of=stamp_of)


def test_legacy_ids_when_the_choice_is_unknown_then_request_error(part, tmp_path):
    with pytest.raises(RequestError, match="legacy_ids"):
        make_eiger(part, tmp_path, legacy_ids="guess")

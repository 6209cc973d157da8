"""Wrong addresses, dead and broken detectors, hostile bytes: an error of ours in time, nothing lost."""

from __future__ import annotations

import struct

import bluesky.plans as bp
import numpy as np
import pytest
from ophyd.sim import SynAxis, det

from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.errors import RequestError, ServiceRefused, ServiceUnreachable, SfdaqError
from sfdaq_ophyd.wire.simplon import DetectorState, Parameter
from sfdaq_ophyd.wire.tiff_write import TiffTags, encode

from ..run_engine_driver import check_files, check_run, drive, interruptible, streams
from .conftest import check_as_found, make_eiger, stamp_of

TAGS = TiffTags(1, 0, "0" * 26, 10**18)
GOOD = encode(np.zeros((32, 48), "u2"), TAGS)
MAIN_IFD = struct.unpack_from("<I", GOOD, 4)[0]


def changed(at: int, layout: str, value: int) -> bytes:
    data = bytearray(GOOD)
    struct.pack_into(layout, data, at, value)
    return bytes(data)


BODIES = {  # of each kind one: tests/wire/test_tiff.py has the others
    "web page": (b"<html><body>Dectris</body></html>", "not a little-endian TIFF"),
    "truncated": (GOOD[: len(GOOD) // 2], "truncated TIFF"),
    "huge dimensions": (changed(MAIN_IFD + 2 + 8, "<I", 2**31), "columns"),
}


def fails_in_time(engine, plan):
    """Run a plan that must fail with an error of ours, and check that the RunEngine is of use afterwards."""
    run = drive(engine, plan)
    assert engine.state == "idle"
    chain, error = [], run.error
    while error is not None:
        chain.append(error)
        error = error.__cause__
    assert any(isinstance(error, SfdaqError) for error in chain), chain
    after = drive(engine, lambda: bp.count([det], 2))
    assert after.stop["exit_status"] == "success"
    return run, chain


@pytest.mark.parametrize("kind", list(BODIES))
def test_image_when_its_bytes_are_wrong_then_the_run_fails_with_the_reason_and_keeps_the_rest(
    part, eiger, tmp_path, kind
):
    body, words = BODIES[kind]
    motor = SynAxis(name="motor")
    engine = interruptible()
    seen = engine.subscribe(lambda name, doc: part.fail_next("body", body=body), "event")

    run, _ = fails_in_time(engine, lambda: bp.scan([eiger], motor, 0, 1, 3))
    engine.unsubscribe(seen)
    assert words in run.stop["reason"] and "eiger" in run.stop["reason"]
    assert len(streams(run)["primary"].rows) == 1
    check_run(run, stamp_of=stamp_of)
    check_files(run, tmp_path)
    check_as_found(part, eiger.client)
    part.faults.clear()
    check_run(drive(engine, lambda: bp.count([eiger], 2)), 2, stamp_of=stamp_of)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://no-such-host.invalid", "http://127.0.0.1:9/monitor/api/1.8.0"]
)
def test_stage_when_nobody_is_there_then_unreachable_and_the_address_is_named(tmp_path, url):
    eiger = Eiger(url, name="eiger", directory=tmp_path, timeout=10.0)
    run, chain = fails_in_time(interruptible(), lambda: bp.count([eiger]))
    assert any(isinstance(error, ServiceUnreachable) for error in chain)
    assert url.split("/")[2] in str(chain[0])
    assert not list(tmp_path.glob("*.h5"))


def test_stage_when_the_api_version_is_wrong_then_the_error_names_the_right_one(part, tmp_path):
    eiger = Eiger(part.url, name="eiger", directory=tmp_path, api_version="1.6.0")
    _, chain = fails_in_time(interruptible(), lambda: bp.count([eiger]))
    assert isinstance(chain[0], RequestError) and "'1.8.0', which" in str(chain[0])
    with pytest.raises(RequestError, match="one of 1.8.0, 1.6.0"):
        Eiger(part.url, name="eiger", directory=tmp_path, api_version="2.0")


def test_stage_when_the_detector_is_in_error_then_the_error_says_so(make_part, tmp_path):
    part = make_part()
    eiger = make_eiger(part, tmp_path)
    part.fail_next("detector_error")
    run, _ = fails_in_time(interruptible(), lambda: bp.count([eiger]))
    assert "detector error" in run.stop["reason"]
    assert part.state == "error"
    _, chain = fails_in_time(interruptible(), lambda: bp.count([eiger]))
    assert "the detector is in state 'error'" in str(chain[0]) and "initialize" in str(chain[0])
    eiger.initialize()
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)


def test_scan_when_the_control_unit_goes_off_then_what_was_stored_stays(make_part, tmp_path):
    part = make_part()
    eiger = make_eiger(part, tmp_path)
    eiger.timeout.put(2.0)
    engine = interruptible()
    engine.subscribe(lambda name, doc: doc["seq_num"] == 2 and part.stop(), "event")
    run, chain = fails_in_time(engine, lambda: bp.count([eiger], 5))
    assert len(streams(run)["primary"].rows) == 2
    check_run(run, stamp_of=stamp_of)
    check_files(run, tmp_path)
    assert any(part.url in str(error) for error in chain)


def test_scan_when_the_control_unit_restarts_then_it_says_so_and_the_next_stage_initializes(part, eiger):
    engine = interruptible()
    token = engine.subscribe(lambda name, doc: part.fail_next("restart", path="images/next"), "event")
    run, _ = fails_in_time(engine, lambda: bp.count([eiger], 3))
    engine.unsubscribe(token)
    part.faults.clear()
    assert run.stop["exit_status"] == "fail" and "eiger" in run.stop["reason"]
    eiger.exposure_time.put(0.002)
    check_run(drive(engine, lambda: bp.count([eiger], 2)), 2, stamp_of=stamp_of)


@pytest.mark.parametrize(
    ("what", "path"),
    [
        ("error", "command/arm"), ("error", "command/trigger"), ("error", "images/next"),
        ("error", "monitor/api"), ("error", "config/nimages"), ("cut", "command/trigger"),
        ("cut", "command/arm"),
        ("hang", "command/trigger"), ("hang", "status/state"), ("hang", "images/next"),
    ],
)  # fmt: skip
def test_scan_when_a_call_fails_then_it_ends_in_time_and_the_detector_is_disarmed(part, tmp_path, what, path):
    make_eiger(part, tmp_path)  # short exposures
    eiger = Eiger(part.url, name="eiger", directory=tmp_path, timeout=4.0)
    eiger.timeout.put(1.0)
    part.fail_next(what, path=path)
    engine = interruptible()
    run = drive(engine, lambda: bp.count([eiger]))
    assert engine.state == "idle"
    if run.error is None:
        check_run(run, 1, stamp_of=stamp_of)
    part.faults.clear()
    assert eiger.client.state() is DetectorState.IDLE
    eiger.timeout.put(30.0)
    check_run(drive(engine, lambda: bp.count([eiger], 2)), 2, stamp_of=stamp_of)


def test_client_when_the_parameter_is_unknown_then_refused_with_its_name(eiger):
    with pytest.raises(ServiceRefused, match="no_such_thing"):
        eiger.client.put("detector", "no_such_thing", 1)


def test_stage_when_it_fails_half_way_then_the_monitor_is_as_found(part, eiger):
    part.fail_next("error", path="config/countrate_correction_count_cutoff")
    with pytest.raises(ServiceRefused):
        eiger.stage()
    check_as_found(part, eiger.client)
    eiger.stage()
    eiger.unstage()
    eiger.unstage()
    eiger.stop()
    check_as_found(part, eiger.client)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("frame_time", ["abc", [1], float("inf"), -1.0, None], ""),
        ("count_time", ["", {}, True], ""),
        ("countrate_correction_count_cutoff", ["x", None, 0.5], ""),
        ("pixel_mask_applied", [None, [], 0.5], ""),
        ("bit_depth_image", [12, "16", None, 2**70], "config/bit_depth_image is"),
        ("x_pixels_in_detector", [0, -4, "48", 10**9, 1e999], "config/x_pixels_in_detector is"),
    ],
)
def test_point_when_a_parameter_is_odd_then_as_if_unknown_or_told_by_name(part, eiger, name, values, told):
    ask = eiger.client.get

    def answer(module, task, wanted, *args):
        return Parameter(value) if wanted == name else ask(module, task, wanted, *args)

    eiger.client.get = answer
    for value in values:
        if told:
            _, errors = fails_in_time(interruptible(), lambda: bp.count([eiger]))
            assert any(told in str(error) and repr(value) in str(error) for error in errors)
        else:
            check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    del eiger.client.get
    check_as_found(part, eiger.client)


def test_point_when_a_server_fails_for_names_it_does_not_have_then_they_are_absent(part, eiger):
    absent = {"threshold/2/mode", "threshold/difference/mode", "trigger_start_delay"}
    ask, keys = eiger.client.get, eiger.client.keys("detector", "config")

    def answer(module, task, name, *args):
        if name in absent:
            raise ServiceRefused(f"GET {name}", url=part.url, said="Internal Server Error", code=500)
        return ask(module, task, name, *args)

    eiger.client.get = answer
    eiger.client.keys = lambda module, task: [name for name in keys if name not in absent]
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    eiger.client.keys = lambda module, task: keys
    fails_in_time(interruptible(), lambda: bp.count([eiger]))

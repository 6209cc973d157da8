"""Settings of hardware and online analysis: the server checks none of them, so we do."""

from __future__ import annotations

import pytest

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.wire.broker_operations import check_script
from sfdaq_ophyd.wire.broker_parameters import check_dap_settings, check_hardware_settings

JF = "JF01T03V01"


@pytest.mark.parametrize(
    "parameters",
    [
        {"exptime": 5e-6},
        {"delay": 0},
        {"detector_mode": "low_noise", "gain_mode": "fixed_gain2"},
        {"gain_mode": {"dynamic": [0, 2], "fixed_gain1": [1]}},
    ],
)
def test_hardware_when_right_then_unchanged(parameters):
    assert check_hardware_settings(JF, parameters) == parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "at least one of"),
        (None, "at least one of"),
        ({"exposure_time": 1}, "names out of delay, detector_mode, exptime, gain_mode"),
        ({"exptime": "5e-6"}, "exptime='5e-6'"),
        ({"exptime": None}, "a number"),
        ({"exptime": True}, "a number"),
        ({"exptime": 0}, "above 0"),
        ({"exptime": float("nan")}, "finite"),
        ({"delay": -1}, "delay=-1"),
        ({"gain_mode": "bogus"}, "one of dynamic, fixed_gain1, fixed_gain2"),
        ({"gain_mode": {"bogus": [0]}}, "one of dynamic"),
        ({"gain_mode": {}}, "a mode, or {mode: [modules]}"),
        ({"gain_mode": {"dynamic": [3]}}, "0 to 2"),
        ({"detector_mode": "unknown"}, "one of normal, low_noise"),
    ],
)
def test_hardware_when_wrong_then_refused_before_the_trigger_stops(parameters, message):
    with pytest.raises(RequestError) as refused:
        check_hardware_settings(JF, parameters)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "parameters",
    [
        {"beam_center_x": 1119.0, "laser_on": True, "aggregation_max": 10},
        {"roi_x1": [1], "roi_x2": [2], "roi_y1": [3], "roi_y2": [4.5]},
        {"threshold_value": "NaN", "double_pixels": "interp", "custom_script": "total"},
        {"disabled_modules": [0, 2]},
    ],
)
def test_dap_when_right_then_unchanged(parameters):
    assert check_dap_settings(JF, parameters) == parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "at least one setting"),
        ({"beam_centre_x": 1}, "names out of"),
        ({"beam_center_x": "1"}, "a number"),
        ({"laser_on": 1}, "true or false"),
        ({"aggregation_max": 1.5}, "an integer"),
        ({"threshold_value": 0}, "one of 0, NaN"),
        ({"double_pixels": "split"}, "one of mask, interp, keep"),
        ({"roi_x1": 5}, "one entry per region"),
        ({"roi_x1": [1], "roi_x2": [1, 2]}, "lists of equal length"),
        ({"disabled_modules": [7]}, "0 to 2"),
        ({"custom_script": 3}, "a text"),
    ],
)
def test_dap_when_wrong_then_refused(parameters, message):
    with pytest.raises(RequestError) as refused:
        check_dap_settings(JF, parameters)
    assert message in str(refused.value)


@pytest.mark.parametrize("name", ["total", "total.py"])
def test_script_when_it_defines_proc_then_file_name(name):
    assert check_script(name, "def proc(meta, image, mask):\n    return 1\n") == "total.py"


def test_script_when_function_is_named_like_the_file_then_good():
    assert check_script("mysum", "def mysum(meta, image, mask):\n    return 1\n") == "mysum.py"


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("a/b", "def proc(): pass", "without directories"),
        ("", "def proc(): pass", "without directories"),
        ("x", "def proc(:\n", "Python code"),
        ("x", "y = 1", "a function proc"),
        ("x", b"def proc(): pass", "as text"),
        ("x", "(" * 5000, "Python code"),
    ],
)
def test_script_when_unusable_then_refused_here(name, code, message):
    with pytest.raises(RequestError) as refused:
        check_script(name, code)
    assert message in str(refused.value)

"""Write requests, status and configuration of the standard DAQ, as values."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sfdaq_ophyd.errors import RequestError, WireError
from sfdaq_ophyd.wire.std_daq import DaqStatus, WriteRequest, WriterState, check_output_file
from sfdaq_ophyd.wire.std_daq_config import DaqConfig, DaqStats, Deployment, LogEntry, check_config

DATA = Path(__file__).parents[1] / "data" / "std_daq"


@pytest.mark.parametrize("path", ["/a.h5", "/a/b_c-d/e.h5", "/a.b/x y.h5", "/sls/p12345/x.tar.gz"])
def test_output_file_when_the_service_takes_it_then_it_is_taken(path):
    assert check_output_file(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "x.h5",
        "~/x.h5",
        "/x",
        "/x.",
        "/x.h",
        "/x.h5/",
        "/",
        "/a b/x.h5",
        "/ü.h5",
        "/a=b/x.h5",
        "/x.h5\n",
        None,
        5,
    ],
)
def test_output_file_when_the_service_refuses_it_then_it_is_named(path):
    with pytest.raises(RequestError, match="output_file="):
        check_output_file(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_images", v) for v in (0, -1, 5.7, "abc", "5.0", True, None, [], 2**31)]
    + [("run_id", v) for v in (-1, 2**64, 1.5, "20230526_113713.793", "7", True)],
)
def test_request_when_a_number_is_wrong_then_field_and_value_are_named(field, value):
    request = {"output_file": "/a.h5", "n_images": 1, "run_id": 1, field: value}
    with pytest.raises(RequestError, match=re.escape(f"{field}={value!r}"[:60])):
        WriteRequest.from_dict(request, default_run_id=1)


@pytest.mark.parametrize("n", [5, "5", " 5 ", 5.0])
def test_request_when_a_script_passes_what_the_service_takes_then_it_is_an_integer(n):
    request = WriteRequest.from_dict(
        {"output_file": "/a.h5", "n_images": n, "x": 1}, default_run_id=2**64 - 1
    )
    assert request.to_dict() == {"output_file": "/a.h5", "n_images": 5, "run_id": 2**64 - 1}


def test_status_when_recorded_then_both_dialects_read_alike():
    found = {}
    for folder in ("rest-flask-2023-05", "rest-fastapi-2024"):
        rows = [json.loads(line) for line in (DATA / folder / "s03_sync.jsonl").open()]
        found[folder] = [DaqStatus.from_dict(row["reply"]["writer"]) for row in rows if "reply" in row]
    first, second = found.values()
    for a, b in zip(first, second):
        assert (a.state, a.acquisition.state, a.acquisition.message) == (
            b.state,
            b.acquisition.state,
            b.acquisition.message,
        )


@pytest.mark.parametrize("folder", ["rest-flask-2023-05", "rest-fastapi-2024"])
def test_views_when_the_service_just_booted_then_nothing_is_there_in_both_dialects(folder):
    replies = [json.loads(line).get("reply") for line in (DATA / folder / "s01_boot.jsonl").open()]
    by_key = {key: reply[key] for reply in replies[::-1] if reply for key in reply}
    status = DaqStatus.from_dict(by_key["writer"])
    assert status == DaqStatus(WriterState.UNKNOWN, None)
    assert LogEntry.list_from(by_key["logs"]) == []
    assert DaqConfig.from_dict(by_key["config"]).image_shape == (256, 512)
    assert DaqStats.from_dict(by_key["stats"]).writer_images_per_second == 0
    assert Deployment.from_dict(by_key["deployment"]).servers == {}
    assert DaqConfig.from_dict(None) is None and DaqStats.from_dict(None) is None


def test_status_when_the_first_start_failed_then_its_message_is_there_though_it_is_of_no_file():
    failed = {"state": "FAILED", "message": "ERROR: x", "info": {"n_images": 0}, "stats": {}}
    status = DaqStatus.from_dict({"state": "READY", "acquisition": failed})
    assert (status.acquisition, status.message) == (None, "ERROR: x")
    for none_yet in (None, {**failed, "message": None}):
        assert DaqStatus.from_dict({"state": "READY", "acquisition": none_yet}).message == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, "daq_config"),
        ([1], "daq_config"),
        ({"nosuch": 1}, "one of the keys"),
        ({"bit_depth": 7}, "bit_depth=7"),
        ({"bit_depth": "abc"}, "bit_depth='abc'"),
        ({"bit_depth": None}, "bit_depth=None"),
        ({"detector_type": "nosuch"}, "detector_type"),
        ({"detector_name": ""}, "detector_name"),
        ({"start_udp_port": 70000}, "start_udp_port"),
        ({"module_positions": 5}, "module_positions"),
        ({"module_positions": {"0": [1, 2]}}, "4 integers"),
        ({"module_positions": {"a": [1, 2, 3, 4]}}, "module numbers"),
    ],
)
def test_config_when_a_value_is_wrong_then_it_is_named(changes, words):
    with pytest.raises(RequestError, match=re.escape(words)):
        check_config(changes)


def test_config_when_values_are_text_then_they_become_integers():
    assert check_config({"bit_depth": "16", "module_positions": {0: (1, 2, 3, 4)}}) == {
        "bit_depth": 16,
        "module_positions": {"0": [1, 2, 3, 4]},
    }


@pytest.mark.parametrize("depth", [0, 13, -16, 64])
def test_config_when_it_has_a_depth_that_no_pixel_has_then_it_is_named(depth):
    config = DaqConfig("x", "eiger", depth, 8, 16, 1, 0, 0)
    with pytest.raises(WireError, match=f"bit_depth as one of .*, got {depth}"):
        assert config.dtype


@pytest.mark.parametrize("value", [np.array([1, 2]), np.array([]), np.array("x"), [1], None], ids=repr)
def test_number_when_it_is_anything_else_then_the_field_is_named(value):
    with pytest.raises(RequestError, match="n_images"):
        WriteRequest("/data/x.h5", value, 1)
    with pytest.raises(RequestError, match="detector_type"):
        check_config({"detector_type": value})

"""A standard DAQ with control by websocket, looked at by doctor and page beside the scan."""

from __future__ import annotations

import json
import re

import pytest
from websockets.sync.client import connect

from sfdaq_ophyd.clients import StdDaqOtherGeneration
from sfdaq_ophyd.errors import ServiceUnreachable
from sfdaq_ophyd.session import _probes
from sfdaq_ophyd.session.checks import checks_of
from sfdaq_ophyd.session.config import SfdaqConfig
from sfdaq_ophyd.session.device_config import StdDaqWriterConfig
from sfdaq_ophyd.session.simulated import address_of_daq
from sfdaq_ophyd.web.services import WriterSource
from sfdaq_ophyd.web.sources import watch_of

from ..http_peer import forward, serving
from ..std_daq import simulated_daq, simulated_websocket_daq


@pytest.fixture(scope="module")
def daq():
    with simulated_websocket_daq(n_writers=3) as daq:
        yield daq


@pytest.fixture
def recording(daq, tmp_path):
    """Start an acquisition for another client; return it once images come."""
    with connect(daq.ws_url) as client:
        client.send(json.dumps({"command": "start", "path": str(tmp_path), "n_image": 10_000}))
        while json.loads(client.recv(timeout=60))["status"] != "recording":
            pass
        yield client
        client.send(json.dumps({"command": "stop"}))
        while json.loads(client.recv(timeout=60))["status"] != "idle":
            pass


@pytest.fixture
def untold(daq, tmp_path, wait_for):
    """An acquisition that is over, its end told to nobody yet."""
    with connect(daq.ws_url) as client:
        client.send(json.dumps({"command": "start", "path": str(tmp_path), "n_image": 5}))
        while json.loads(client.recv(timeout=60))["status"] not in ("recording", "saving_file"):
            pass
    wait_for(lambda: daq.driver.shown == "file_saved", "the end")


def block_of(**keys):
    return StdDaqWriterConfig.model_validate({"class": "StdDaqWriter", **keys})


def test_doctor_when_somebody_records_then_it_says_how_far_that_is_and_it_goes_on(daq, recording):
    version, found = _probes.PROBES["StdDaqWriter"](block_of(**address_of_daq(daq)))
    assert version == "websocket"
    assert re.match(r"gf-teststand, 3 writers, driver recording, \d+ images, its clock is ours within", found)
    assert json.loads(recording.recv(timeout=60))["status"] == "recording"


def test_doctor_when_it_is_told_an_end_then_it_says_so(daq, untold):
    _, found = _probes.PROBES["StdDaqWriter"](block_of(**address_of_daq(daq)))
    assert "3 writers, driver file_saved" in found
    assert found.endswith(
        "that end was told here alone: a scan sees the DAQ idle, and finds the end in the files"
    )


def test_doctor_when_the_configuration_is_given_then_the_dialect_is_found_out(daq):
    with pytest.raises(ServiceUnreachable, match=r"ws://127.0.0.1:8080"):  # its usual port; here nobody
        _probes.PROBES["StdDaqWriter"](block_of(url=daq.url))


def test_doctor_when_the_driver_is_gone_then_the_check_fails_with_its_address(daq, wait_for):
    with connect(daq.ws_url) as client:
        client.recv(timeout=60)
        client.send("[]")  # which kills it
        wait_for(lambda: not daq.alive()["driver"], "its death")
    try:
        with pytest.raises(ServiceUnreachable, match=daq.ws_url):
            _probes.PROBES["StdDaqWriter"](block_of(**address_of_daq(daq)))
    finally:
        daq.restart_driver()


@pytest.mark.parametrize("url, writes", [("ws://h:8080", True), ("http://h:5000", False)])
def test_doctor_when_files_are_joined_then_their_folder_must_be_writable_here(tmp_path, url, writes):
    config = SfdaqConfig.model_validate(
        {"directory": tmp_path, "devices": {"writer": {"class": "StdDaqWriter", "url": url}}}
    )
    (check,) = [check for check in checks_of(config) if check.name == "writer directory"]
    assert check.probe.args[1] is writes


@pytest.mark.parametrize("form", ["ws", "config"])
def test_page_when_somebody_records_then_it_shows_how_far_that_is_and_who_was_told_the_end(
    daq, recording, form, monkeypatch, tmp_path, wait_for
):
    if form == "ws":
        block = {"class": "StdDaqWriter", **address_of_daq(daq)}
        config = SfdaqConfig.model_validate({"directory": tmp_path, "devices": {"writer": block}})
        (source,) = (each for each in watch_of(config).sources if each.group == "writers")
    else:
        monkeypatch.setattr("sfdaq_ophyd.clients.std_daq_socket.CONTROL_PORT", daq.ws_url.rsplit(":")[-1])
        source = WriterSource("writer", daq.url)
    try:
        seen = source.look()
        assert (seen["state"], seen["level"]) == ("recording", "busy")
        assert re.match(r"gf-teststand, 3 writers; \d+ images so far, of how many", seen["message"])
        assert source.period == 5.0, "seldom"
        assert json.loads(recording.recv(timeout=60))["status"] == "recording"
        recording.send(json.dumps({"command": "stop"}))
        wait_for(lambda: daq.driver.shown == "idle", "the end")
        seen = source.look()
        assert (seen["state"], seen["level"]) == ("idle", "good")
    finally:
        source.rest()


def test_page_when_the_daq_is_replaced_by_another_generation_then_it_shows_that_one(daq, monkeypatch):
    monkeypatch.setattr("sfdaq_ophyd.clients.std_daq_socket.CONTROL_PORT", daq.ws_url.rsplit(":")[-1])
    with simulated_daq() as rest:
        there = [rest]
        with serving(lambda handler: forward(handler, there[-1].url)) as url:
            source, told = WriterSource("writer", url), WriterSource("writer", url, "flask")
            for each, state in ((rest, "UNKNOWN"), (daq, "idle"), (rest, "UNKNOWN")):
                there.append(each)
                assert source.look()["state"] == state
            there.append(daq)
            with pytest.raises(StdDaqOtherGeneration, match="of generation 'websocket'"):
                told.look()
            source.rest()
            told.rest()


def test_page_when_it_is_told_an_end_then_it_says_so(daq, untold):
    source = WriterSource("writer", **address_of_daq(daq))
    seen = source.look()
    assert (seen["state"], seen["level"]) == ("file_saved", "good")
    assert seen["message"].endswith("a scan sees the DAQ idle, and finds the end in the files")
    assert source.look()["state"] == "idle"

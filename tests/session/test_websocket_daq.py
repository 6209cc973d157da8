"""A standard DAQ with control by websocket, looked at by doctor and page beside the scan."""

from __future__ import annotations

import json
from functools import partial

import pytest
from websockets.sync.client import connect

from sfdaq_ophyd.clients import StdDaqOtherGeneration
from sfdaq_ophyd.errors import ServiceUnreachable
from sfdaq_ophyd.session import checks
from sfdaq_ophyd.session.checks import checks_of
from sfdaq_ophyd.session.config import SfdaqConfig, StdDaqWriterConfig
from sfdaq_ophyd.session.simulated import address_of_daq
from sfdaq_ophyd.web.source import WriterSource
from sfdaq_ophyd.web.sources import watch_of
from sfdaq_ophyd.wire.std_daq_socket import NOT_SHOWN

from ..http_peer import forward, serving
from ..std_daq import simulated_daq, simulated_websocket_daq


@pytest.fixture(scope="module")
def daq():
    with simulated_websocket_daq(n_writers=3) as daq:
        yield daq


@pytest.fixture
def untold(daq, tmp_path, wait_for):
    """An acquisition that is over, its end told to nobody yet."""
    with connect(daq.ws_url, open_timeout=120) as client:
        client.send(json.dumps({"command": "start", "path": str(tmp_path), "n_image": 5}))
        while json.loads(client.recv(timeout=60))["status"] not in ("recording", "saving_file"):
            pass
    wait_for(lambda: daq.driver.shown == "file_saved", "the end")


def block_of(**keys):
    return StdDaqWriterConfig.model_validate({"class": "StdDaqWriter", **keys})


def looks_at(daq, monkeypatch):
    """Return doctor and page, each given the control's address or found out from the configuration's."""
    monkeypatch.setattr("sfdaq_ophyd.clients.std_daq_socket.CONTROL_PORT", daq.ws_url.rsplit(":")[-1])
    monkeypatch.setattr(checks, "ANSWER_LIMIT", 120.0)
    blocks = [block_of(**address_of_daq(daq)), block_of(url=daq.url)]
    config = SfdaqConfig.model_validate({"devices": {f"w{i}": block for i, block in enumerate(blocks)}})
    pages = [source for source in watch_of(config).sources if source.group == "writers"]
    return [partial(checks._std_daq, block) for block in blocks], pages


def test_looks_when_an_end_is_not_told_yet_then_it_is_told_to_the_next_client(daq, untold, monkeypatch):
    doctors, pages = looks_at(daq, monkeypatch)
    for _ in range(3):
        for doctor in doctors:
            version, found = doctor()
            assert version == "websocket"
            assert found.startswith("gf-teststand, 3 writers, its clock is ours within")
            assert found.endswith(NOT_SHOWN)
        for page in pages:
            assert page.look() == {
                "state": "not shown",
                "level": "",
                "message": f"gf-teststand, 3 writers; {NOT_SHOWN}",
            }
            assert page.period == 5.0, "seldom"
    for page in pages:
        page.rest()
    with connect(daq.ws_url, open_timeout=120) as client:
        assert json.loads(client.recv(timeout=60))["status"] == "file_saved"


def test_doctor_when_the_configuration_is_given_then_the_dialect_is_found_out(daq):
    with pytest.raises(ServiceUnreachable, match=r"ws://127.0.0.1:8080"):  # its usual port; here nobody
        checks._std_daq(block_of(url=daq.url))


def test_doctor_when_the_driver_is_gone_then_the_check_fails_with_its_address(daq, wait_for):
    with connect(daq.ws_url, open_timeout=120) as client:
        client.recv(timeout=60)
        client.send("[]")  # which kills it
        wait_for(lambda: not daq.alive()["driver"], "its death")
    try:
        with pytest.raises(ServiceUnreachable, match=daq.ws_url):
            checks._std_daq(block_of(**address_of_daq(daq)))
    finally:
        daq.restart_driver()


@pytest.mark.parametrize("url, writes", [("ws://h:8080", True), ("http://h:5000", False)])
def test_doctor_when_files_are_joined_then_their_folder_must_be_writable_here(tmp_path, url, writes):
    config = SfdaqConfig.model_validate(
        {"directory": tmp_path, "devices": {"writer": {"class": "StdDaqWriter", "url": url}}}
    )
    (check,) = [check for check in checks_of(config) if check.name == "writer directory"]
    assert check.probe.args[1] is writes


def test_page_when_the_daq_is_replaced_by_another_generation_then_it_shows_that_one(daq, monkeypatch):
    monkeypatch.setattr("sfdaq_ophyd.clients.std_daq_socket.CONTROL_PORT", daq.ws_url.rsplit(":")[-1])
    with simulated_daq() as rest:
        there = [rest]
        with serving(lambda handler: forward(handler, there[-1].url)) as url:
            source, told = WriterSource("writer", url), WriterSource("writer", url, "flask")
            for each, state in ((rest, "UNKNOWN"), (daq, "not shown"), (rest, "UNKNOWN")):
                there.append(each)
                assert source.look()["state"] == state
            there.append(daq)
            with pytest.raises(StdDaqOtherGeneration, match="of generation 'websocket'"):
                told.look()
            source.rest()
            told.rest()

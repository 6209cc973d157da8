"""The Eiger's stream where it cannot be read out: said by name, and everything left as it was."""

from __future__ import annotations

import pytest

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.errors import DetectorStateError, RequestError, ServiceTimeout

from .conftest import check_as_found, make_eiger


def test_eiger_when_made_for_the_stream_then_its_endpoint_is_on_the_units_host(tmp_path):
    endpoints = [
        Eiger(url, name="eiger", directory=tmp_path, readout="stream").source.stream.endpoints
        for url in ("http://user:secret@dcu:8080", "http://[fe80::1]", "http://dcu/monitor/api/1.8.0")
    ]
    assert endpoints == [["tcp://dcu:31001"], ["tcp://[fe80::1]:31001"], ["tcp://dcu:31001"]]


@pytest.mark.parametrize("readout", ["stream", "filewriter"])
@pytest.mark.parametrize("mode", ["monitor", "auto"])
def test_eiger_when_somebody_else_runs_it_then_refused_before_anything_is_sent(part, tmp_path, readout, mode):
    eiger = Eiger(part.url, name="eiger", directory=tmp_path, readout=readout, mode=mode)
    with pytest.raises(RequestError, match=f"eiger.mode='{mode}': expected external or .* the {readout}"):
        eiger.stage()
    assert not part.requests.entries()


def test_stream_when_nobody_answers_at_its_port_then_stage_says_so_and_leaves_all_as_it_was(
    part, tmp_path, closed_port
):
    endpoint = f"tcp://127.0.0.1:{closed_port}"
    eiger = make_eiger(part, tmp_path, readout="stream", stream=endpoint)
    eiger.timeout.put(0.3)
    part.requests.clear()
    with pytest.raises(ServiceTimeout, match=f"eiger: connecting to the stream's port, {endpoint}"):
        eiger.stage()
    assert not [one for one in part.requests.entries() if one.path.endswith("command/arm")]
    check_as_found(part, eiger.client)
    stream = {name: eiger.client.get("stream", "config", name).value for name in ("mode", "format")}
    assert stream == {"mode": "disabled", "format": "legacy"}


def test_stream_when_the_detector_is_of_an_older_kind_then_stage_names_the_other_readout(make_part, tmp_path):
    part = make_part(api_version="1.6.0")
    SimplonClient(part.url).initialize()
    eiger = make_eiger(part, tmp_path, readout="stream", stream="tcp://127.0.0.1:31001")
    with pytest.raises(DetectorStateError, match=r"no format 'cbor' \(API 1.6.0\); use readout='monitor'"):
        eiger.stage()

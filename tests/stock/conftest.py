"""One stock Tiled server and one simulated facility for all tests here: a start takes seconds."""

from __future__ import annotations

import warnings

import pytest

from sfdaq_ophyd.devices import Eiger, Jungfrau, SfDaqBroker, StdDaqWriter
from sfdaq_ophyd.sim import Facility

from ..devices.broker_bench import ClockPulseId
from ..tiled_server import stock_catalog

NAME = "JF03T01V02"
"""One module: small files."""


@pytest.fixture(scope="package")
def stock_server(tmp_path_factory):
    """``tiled serve catalog``, SQLite, in a process of its own; has ``uri`` and ``api_key``."""
    with stock_catalog(tmp_path_factory.mktemp("stock")) as server:
        yield server


@pytest.fixture(scope="package")
def stock_client(stock_server):
    """A stock client of it, as ``tiled.client.from_uri`` makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tiled.client import from_uri

    client = from_uri(stock_server.uri, api_key=stock_server.api_key)
    yield client
    client.context.close()


@pytest.fixture(scope="package")
def facility(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facility")
    only = ["eiger", "jungfrau", "std_daq", "broker"]
    with Facility(
        speed="auto",
        directory=folder,
        only=only,
        eiger_shape=(32, 48),
        jungfrau_name=NAME,
        std_daq_writable=folder / "std-daq",
        broker_delays=0.002,
    ) as facility:
        yield facility


@pytest.fixture
def detectors(facility, tmp_path):
    facility.broker.make_pgroup("p20001")
    pulse_id = ClockPulseId(facility.clock)
    eiger = Eiger(facility.eiger.url, name="eiger", directory=tmp_path)
    jungfrau = Jungfrau(
        facility.jungfrau.endpoints, name="jf", detector_name=NAME, directory=tmp_path, pulse_id=pulse_id
    )
    writer = StdDaqWriter(
        facility.std_daq.url,
        name="writer",
        redis_url=facility.std_daq.redis_url,
        directory=facility.directory / "std-daq",
    )
    sfdaq = SfDaqBroker(
        facility.broker.url,
        name="sfdaq",
        pgroup="p20001",
        pulse_id=pulse_id,
        beamline=facility.broker.beamline,
        detectors=[facility.jungfrau.detector_name],
        channels=["SIM:INTENSITY"],
        n_pulses=2,
        sf_root=facility.broker.root,
        directory=tmp_path,
    )
    writer.frames_per_trigger.put(2)
    yield [eiger, jungfrau, writer, sfdaq]
    pulse_id.close()

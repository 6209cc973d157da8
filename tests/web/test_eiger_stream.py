"""An Eiger that is read out by its stream, on the page: shown, and not taken from."""

from __future__ import annotations

import contextlib
import threading

import pytest

from sfdaq_ophyd.clients import EigerStream, SimplonClient
from sfdaq_ophyd.errors import SfdaqError
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.web.eiger import DROPPED_BY_STREAM, EigerSource


@pytest.fixture(scope="module")
def facility():
    with Facility(only=["eiger"], eiger_shape=(40, 50), eiger_initialized=True) as facility:
        yield facility


@pytest.fixture
def client(facility):
    client = SimplonClient(facility.eiger.url)
    for module, name, value in (
        ("stream", "format", "cbor"),
        ("stream", "mode", "enabled"),
        ("monitor", "mode", "disabled"),
        ("detector", "count_time", 0.005),
        ("detector", "frame_time", 0.01),
        ("detector", "nimages", 100_000),
    ):
        client.put(module, name, value)
    yield client
    client.abort()
    client.close()


@contextlib.contextmanager
def series(client):
    """A series that goes on."""

    def trigger():
        with contextlib.suppress(SfdaqError):  # it is aborted
            client.trigger(1000.0)

    client.arm()
    thread = threading.Thread(target=trigger, daemon=True)
    thread.start()
    yield
    client.abort()
    thread.join(60)


@pytest.fixture
def source(facility):
    source = EigerSource("eiger", facility.eiger.url, period=0.01, streams=True)
    yield source
    source.rest()


def look(source, wait_for, is_there):
    """Look until something is seen; return that."""
    seen = []
    wait_for(lambda: seen.append(source.look()) or is_there(seen[-1]), "what is to be seen")
    return seen[-1]


def test_stream_when_a_series_runs_then_rate_and_state_are_shown_and_no_message_is_taken(
    facility, client, source, wait_for
):
    assert look(source, wait_for, lambda seen: seen)["note"] == "stream: ready"
    client.put("monitor", "mode", "enabled")
    with EigerStream(facility.eiger.stream_endpoint, timeout=60) as stream, stream.frames() as frames:
        stream.wait_connected(60)
        with series(client):
            measured = look(source, wait_for, lambda seen: seen["note"] == "stream: acquire" and seen["rate"])
            client.put("monitor", "mode", "disabled")
            told = look(source, wait_for, lambda seen: "as configured" in seen["note"])
            ids = [frame.image_id for _, frame in zip(range(50), frames)]
    assert measured["rate"] > 0 and source.frame is not None
    assert (told["rate"], told["note"]) == (100.0, "stream: acquire, rate as configured")
    assert told["counters"] == {DROPPED_BY_STREAM: 0} and told["state"] == "acquire"
    assert ids == list(range(50))


def test_stream_when_nobody_reads_it_then_what_is_dropped_counts_as_loss(client, source, wait_for):
    with series(client):
        seen = look(source, wait_for, lambda seen: seen["loss_rate"])
    assert seen["counters"][DROPPED_BY_STREAM] > 0 and seen["loss_rate"] > 0
    assert source.state()["loss_name"] == DROPPED_BY_STREAM

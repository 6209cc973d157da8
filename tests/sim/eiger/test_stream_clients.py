"""The stream of the simulated detector, version 2: to whom it goes, and what becomes of what nobody takes."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.wire import tiff

from .conftest import Rest, arm, take


@pytest.mark.parametrize("kind", ["cbor", "legacy"])
def test_images_when_nobody_listens_then_dropped_counts_them_until_the_next_arm(rest, kind):
    rest.stream()
    rest.set("stream/config/format", kind)
    take(rest, nimages=4)
    assert rest.value("stream/status/dropped") == 4
    arm(rest)
    assert rest.value("stream/status/dropped") == 0


def test_images_when_a_client_stops_reading_then_exposures_go_on_and_what_it_missed_is_counted(
    make_part, make_pull
):
    rest = Rest(make_part(shape=(64, 512), initialized=True, stream_high_water=3))
    rest.stream(compression="none", frame_time=0.0006)
    rest.set("monitor/config/mode", "enabled")
    rest.set("monitor/config/discard_new", False)
    pull = make_pull(rest, hwm=3)
    take(rest, nimages=700)
    dropped = rest.value("stream/status/dropped")
    assert tiff.decode(rest.get("monitor/images/monitor").content).image_id == 699, "the monitor had them all"
    ids = []
    while len(ids) < 700 - dropped:
        if (message := pull.message())["type"] == "image":
            ids.append(message["image_id"])
    assert dropped > 0 and ids == sorted(set(ids))
    while not pull.silent():
        assert pull.message()["type"] == "end", "what was dropped does not come later"


def test_images_when_the_facility_is_patient_then_they_wait_for_a_slow_client_and_not_for_none(make_pull):
    with Facility(
        speed="auto",
        only=["eiger"],
        eiger_shape=(512, 512),
        eiger_initialized=True,
        eiger_stream_high_water=1,
    ) as facility:
        rest = Rest(facility.eiger)
        rest.stream(compression="none", frame_time=0.0006)
        address = facility.addresses()["eiger"]["stream"].removeprefix("tcp://").split(":")
        for words in (b"", b"GET / HTTP/1.0\r\n\r\n"):  # who looks whether the port is open is no client
            with socket.create_connection(address) as probe:
                probe.sendall(words)
        take(rest, nimages=3)
        assert rest.value("stream/status/dropped") == 3, "nobody waits for nobody"
        pull = make_pull(rest, hwm=1)
        with ThreadPoolExecutor(1) as pool:
            arm(rest, nimages=60)
            triggered = pool.submit(Rest(facility.eiger).command, "detector/command/trigger")
            pull.message()
            assert not wait([triggered], timeout=0.3).done, "60 images of 256 KiB wait for their client"
            ids = [message["image_id"] for message in pull.series()[:-1]]
            triggered.result(60)
        assert ids == list(range(60)) and rest.value("stream/status/dropped") == 0


def take_shared(rest, clients, nimages):
    """Take one series; the types of messages that each client got."""
    take(rest, nimages)
    kinds = [[] for _ in clients]
    while sum(map(len, kinds)) < nimages + 2:
        for client, got in zip(clients, kinds):
            if client.socket.poll(10):
                got.append(client.message()["type"])
    return kinds


def test_clients_when_two_are_connected_then_each_message_goes_to_one_of_them(
    rest, pull, make_pull, wait_for
):
    clients = pull, make_pull(rest)
    wait_for(lambda: all(take_shared(rest, clients, 1)), "both to be known to the sender")
    kinds = {tuple(messages) for messages in take_shared(rest, clients, 4)}
    assert kinds == {("start", "image", "image"), ("image", "image", "end")}
    assert rest.value("stream/status/dropped") == 0


def test_end_when_the_detector_is_switched_off_at_once_then_all_that_was_sent_still_arrives(
    make_part, make_pull
):
    rest = Rest(make_part(shape=(512, 512), initialized=True))
    rest.stream(compression="none", frame_time=0.001)
    pull = make_pull(rest)
    take(rest, nimages=40)
    thread = threading.Thread(target=rest.part.stop)
    thread.start()
    assert len(pull.series()) == 42
    thread.join(60)


def test_part_when_the_streams_port_is_taken_then_it_says_which_and_leaves_nothing(make_part):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} for the Eiger's stream"):
            make_part(stream_port=port)
    part = make_part(stream_port=port)
    assert part.stream_endpoint == f"tcp://127.0.0.1:{port}"
    assert part.addresses()["stream"] == part.stream_endpoint

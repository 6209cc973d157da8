"""SimplonClient against the simulated detector, and against servers that misbehave in their own ways."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.errors import (
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    UnknownOutcome,
    WireError,
)
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire.simplon import DetectorState


@pytest.fixture(scope="module")
def shared_part():
    with Facility(only=["eiger"], eiger_shape=(32, 48), eiger_dwell=0, eiger_initialized=True) as facility:
        yield facility.eiger


@pytest.fixture
def part(shared_part):
    """The shared detector, idle, without images, faults pending or long exposures."""
    shared_part.faults.clear()
    client = SimplonClient(shared_part.url, timeout=60)
    client.abort()
    client.put("detector", "nimages", 1)
    client.put("detector", "count_time", 0.001)
    client.put("detector", "frame_time", 0.002)
    client.command("monitor", "initialize")
    client.close()
    shared_part.requests.clear()
    return shared_part


@pytest.fixture
def client(part):
    client = SimplonClient(part.url, timeout=60)
    client.put("monitor", "mode", "enabled")
    yield client
    client.close()


def take(client, n):
    client.put("detector", "nimages", n)
    series_id = client.arm()
    client.trigger(n * 0.002)
    return series_id


def test_client_when_made_then_nothing_is_contacted_and_the_version_is_asked_once(part):
    part.requests.clear()
    client = SimplonClient(part.url)
    assert part.requests.entries() == []
    assert client.version == client.version == "1.8.0"
    assert [entry.path for entry in part.requests.entries()] == ["/detector/api/version"]


@pytest.mark.parametrize("tail", ["/monitor/api/1.8.0", "/monitor/api/1.8.0/", "/detector/api/1.8.0/config"])
def test_client_when_given_the_address_of_a_module_then_host_and_version_are_taken_from_it(part, tail):
    client = SimplonClient(part.url + tail)
    assert (client.url, client.version) == (part.url, "1.8.0")
    assert client.state() is DetectorState.IDLE


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("",), "url"), (("ftp://host",), "url"), (("http://host:port",), "url"),
        (("http://host", "1.7.0"), "api_version"),
        (("http://host/monitor/api/1.6.0", "1.8.0"), "api_version"),
    ],
)  # fmt: skip
def test_client_when_an_argument_is_wrong_then_request_error_names_it(arguments, field):
    with pytest.raises(RequestError, match=field):
        SimplonClient(*arguments)


def test_put_when_a_time_changes_then_every_changed_name_is_returned(client):
    changed = client.put("detector", "count_time", 0.1)
    assert {"count_time", "frame_time", "bit_depth_image"} <= set(changed)
    assert client.put("detector", "threshold/difference/mode", "disabled") == ["threshold/difference/mode"]
    assert client.put("monitor", "buffer_size", 7) == ["buffer_size"]


def test_keys_when_asked_then_they_are_names(client):
    assert "count_time" in client.keys("detector", "config")
    assert client.get("stream", "status", "state").value == "disabled"
    assert client.get("filewriter", "config", "name_pattern").value == "series_$id"
    assert client.keys("system", "command") == ["restart"]


def test_get_when_the_name_is_unknown_then_the_servers_words_are_quoted(client):
    with pytest.raises(ServiceRefused, match="Parameter nothing does not exist") as info:
        client.get("detector", "config", "nothing")
    assert info.value.code == 404


def test_next_image_when_frames_wait_then_each_comes_once_with_ids_and_times(client, part):
    series_id = take(client, 3)
    frames = [client.next_image() for _ in range(3)]
    assert [frame.event_id for frame in frames] == [f"{series_id}_{k}" for k in range(3)]
    assert [read_stamp(frame.image) for frame in frames] == [part.stamp_of(series_id, k) for k in range(3)]
    assert all(abs(frame.received_ns / 1e9 - frame.timestamp) < 60 for frame in frames)
    assert client.next_image(0.0) is None


def test_newest_image_when_asked_twice_then_it_is_the_same_one(client):
    series_id = take(client, 2)
    assert client.newest_image().event_id == client.newest_image().event_id == f"{series_id}_1"
    assert client.image(series_id, 0).image_id == 0
    assert client.image(series_id, 7) is None
    assert client.image_list() == [(series_id, 0), (series_id, 1)]
    client.clear_monitor()
    assert client.image_list() == []


def test_images_when_the_server_says_408_then_none_and_it_goes_on(client, part):
    part.fail_next("no_image", count=2)
    take(client, 1)
    stop = threading.Event()
    images = client.images(stop, 0.05)
    assert next(images) is None and next(images) is None
    assert next(images).image_id == 0
    stop.set()
    assert next(images, "ended") == "ended"


def test_images_when_the_connection_is_lost_then_it_is_tried_again(client, part):
    part.fail_next("cut", path="images/next", count=2)
    take(client, 1)
    assert next(client.images(threading.Event(), 0.5)).image_id == 0


def test_images_when_the_server_stays_away_then_it_gives_up_in_bounded_time():
    client = SimplonClient("http://127.0.0.1:9", "1.8.0", timeout=0.5)
    with pytest.raises(ServiceUnreachable, match="127.0.0.1:9"):
        next(client.images(threading.Event(), 0.1, give_up_after=0.3))


def test_interrupt_when_another_thread_waits_then_it_ends_at_once(client, wait_for):
    stop, ended = threading.Event(), []
    thread = threading.Thread(target=lambda: ended.extend(client.images(stop, 600.0)))
    thread.start()
    wait_for(lambda: client._images._http._calls, "a request under way")
    wait_for(lambda: (stop.set(), client.interrupt(), not thread.is_alive())[-1], "the end of the wait")
    assert ended == []


def test_trigger_when_the_server_drops_a_long_connection_then_the_exposure_is_waited_for(
    client, part, monkeypatch
):
    client.put("detector", "frame_time", 0.4)
    client.arm()
    monkeypatch.setattr(part, "command_limit", 0.1)
    client.trigger(0.4)
    assert client.state() is DetectorState.IDLE
    assert client.next_image().image_id == 0
    assert len([entry for entry in part.requests.entries() if entry.path.endswith("command/trigger")]) == 1


def test_trigger_when_the_exposure_is_over_sooner_than_told_and_was_watched_then_that_is_no_error(
    client, part, monkeypatch
):
    """The last image of a series ends with its count time, not with the frame time it was told by."""
    client.put("detector", "frame_time", 5.0)
    client.arm()
    monkeypatch.setattr(part, "command_limit", 0.1)
    client.trigger(30.0)
    assert client.state() is DetectorState.IDLE and client.next_image().image_id == 0


def test_trigger_when_the_reply_is_lost_and_nothing_was_exposed_then_unknown_outcome(client, part):
    client.arm()
    part.fail_next("cut", path="command/trigger")
    with pytest.raises(UnknownOutcome, match="status/state before sending it again"):
        client.trigger(1.0)


def test_trigger_when_not_armed_then_the_servers_words_come_back(client):
    with pytest.raises(ServiceRefused, match="not allowed in state idle"):
        client.trigger()


def test_wait_while_when_the_state_stays_then_the_timeout_names_it(client):
    with pytest.raises(ServiceTimeout, match="last state 'idle'"):
        client.wait_while({DetectorState.IDLE}, 0.05, "anything else")


def test_get_array_when_the_mask_is_read_then_it_has_the_frames_shape(client):
    mask = client.get_array("pixel_mask")
    assert (mask.shape, mask.dtype) == ((32, 48), np.dtype("<u4"))


@pytest.mark.parametrize(
    ("fault", "details", "words"),
    [
        ("content_type", {}, "not a little-endian TIFF.*content type 'text/html"),
        ("truncate", {}, "truncated TIFF"),
        ("cut_body", {}, "the connection ended after"),
    ],
)
def test_next_image_when_the_body_is_wrong_then_wire_error_and_the_next_one_is_right(
    client, part, fault, details, words
):
    take(client, 2)
    part.fail_next(fault, **details)
    with pytest.raises(WireError, match=words):
        client.next_image()
    assert client.next_image(30.0) is not None


def test_next_image_when_the_server_hangs_then_timeout_in_time(part):
    client = SimplonClient(part.url, "1.8.0", timeout=2.0)
    part.fail_next("hang", path="images/next")
    with pytest.raises(ServiceTimeout, match="images/next"):
        client.next_image(0.1)


def test_event_id_when_the_image_has_none_then_the_error_says_what_to_do(client, part):
    part.fail_next("no_private_ifd")
    take(client, 1)
    frame = client.next_image()
    assert (frame.series_id, frame.timestamp) == (None, None)
    with pytest.raises(WireError, match="legacy_ids"):
        _ = frame.event_id


def test_client_when_the_server_closes_kept_connections_then_calls_still_work(part):
    """A connection kept from the last call may be gone: that is not an error of the next one."""
    client = SimplonClient(part.url)
    client.put("monitor", "mode", "enabled")
    assert client.next_image(0) is None
    for connection, *_ in client._images._http._connections._idle:
        connection.sock.shutdown(socket.SHUT_RDWR)
    assert client.next_image(0) is None

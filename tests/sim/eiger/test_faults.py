"""Misbehaviour by name, and the request log."""

from __future__ import annotations

import http.client
import socket

import pytest
import requests

from sfdaq_ophyd.wire import tiff

from .conftest import Rest, arm, images, take


def test_long_command_when_beyond_the_limit_then_the_connection_goes_and_the_series_goes_on(
    make_part, wait_for
):
    rest = Rest(make_part(initialized=True, command_limit=1.0))
    rest.set("monitor/config/mode", "enabled")
    rest.set("detector/config/frame_time", 2.0)
    rest.set("detector/config/count_time", 2.0)
    arm(rest, nimages=1)
    connection = http.client.HTTPConnection(rest.part.url.removeprefix("http://"), timeout=60)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        connection.request("PUT", "/detector/api/1.8.0/command/trigger")
        connection.getresponse()
    connection.close()
    assert rest.state() == "acquire"
    wait_for(lambda: rest.state() == "idle", "idle")
    images(rest, 1)


def test_faults_when_named_then_each_happens_once(rest):
    part = rest.part
    part.fail_next("error", path="count_time", code=503, text="busy")
    assert rest.get("detector/config/nimages").status_code == 200
    reply = rest.get("detector/config/count_time")
    assert (reply.status_code, reply.text) == (503, "busy")
    assert rest.get("detector/config/count_time").status_code == 200

    part.fail_next("drop")
    part.fail_next("truncate", keep=100)
    part.fail_next("content_type")
    take(rest, nimages=4)
    web_page, short, whole = (rest.get("monitor/images/next") for _ in range(3))
    assert web_page.headers["Content-Type"].startswith("text/html")
    assert len(short.content) == 100
    assert tiff.decode(whole.content).image_id == 3

    part.fail_next("wrong_series")
    part.fail_next("no_private_ifd")
    series_id = take(rest, nimages=2)
    odd, normal = images(rest, 2)
    assert (odd.series_id, normal.series_id) == (None, series_id)

    part.fail_next("no_image", count=2)
    take(rest)
    codes = [rest.get("monitor/images/next").status_code for _ in range(3)]
    assert codes == [408, 408, 200]

    part.fail_next("same_time")
    take(rest, nimages=2)
    assert len({frame.time_ns for frame in images(rest, 2)}) == 1

    part.fail_next("late_last")
    take(rest)
    assert rest.get("monitor/images/next?timeout=0").status_code == 408
    rest.command("detector/command/disarm")
    images(rest, 1)

    part.fail_next("detector_error")
    arm(rest)
    assert rest.put("detector/command/trigger").status_code == 500
    assert rest.state() == "error"

    part.fail_next("restart", path="state")
    assert rest.state() == "na"


@pytest.mark.parametrize("what", ["cut", "cut_body", "hang"])
def test_connection_faults_when_named_then_the_client_gets_no_reply(rest, what):
    take(rest)
    rest.part.fail_next(what)
    connection = http.client.HTTPConnection(rest.part.url.removeprefix("http://"), timeout=0.3)
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.request("GET", "/monitor/api/1.8.0/images/monitor")
        connection.getresponse().read()
    connection.close()


def test_log_when_requests_were_made_then_they_are_listed_in_order(rest):
    rest.part.requests.clear()
    arm(rest)
    entries = [(entry.method, entry.path, entry.code) for entry in rest.part.requests.entries()]
    assert entries[-1] == ("PUT", "/detector/api/1.8.0/command/arm", 200)
    assert rest.part.requests.entries()[0].body == b'{"value": 1}'


def test_part_when_stopped_twice_then_the_port_is_free(make_part):
    part = make_part()
    host, port = part.url.removeprefix("http://").split(":")
    part.stop()
    part.stop()
    with pytest.raises(ConnectionError):
        socket.create_connection((host, int(port)), timeout=1)


def test_out_of_order_when_named_then_the_frame_comes_after_those_that_follow_it(rest):
    rest.part.fail_next("out_of_order", after=2)
    take(rest, nimages=5)
    assert [frame.image_id for frame in images(rest, 5)] == [1, 2, 0, 3, 4]
    rest.part.fail_next("out_of_order", after=100)
    take(rest, nimages=3)
    assert [frame.image_id for frame in images(rest, 3)] == [1, 2, 0], (
        "the trigger's end brings it at the latest"
    )


@pytest.mark.parametrize(
    ("version_request", "codes"), [("both", (200, 200)), ("slash", (307, 200)), ("none", (404, 404))]
)
def test_version_request_when_of_another_server_then_answered_as_it_does(make_part, version_request, codes):
    part = make_part(version_request=version_request)
    url = f"{part.url}/detector/api/version"
    replies = [requests.get(each, timeout=60, allow_redirects=False) for each in (url, url + "/")]
    assert tuple(reply.status_code for reply in replies) == codes
    if version_request == "slash":
        assert requests.get(url, timeout=60).json()["value"] == "1.8.0"


@pytest.mark.parametrize("by_command", [True, False])
def test_restart_when_called_or_sent_then_as_after_power_up(rest, by_command):
    rest.set("detector/config/nimages", 7)
    first = arm(rest), rest.value("detector/status/series_unique_id")
    rest.command("system/command/restart") if by_command else rest.part.restart()
    assert rest.state() == "na"
    rest.command("detector/command/initialize")
    assert rest.value("detector/config/nimages") == 1 and rest.value("monitor/config/mode") == "disabled"
    second = arm(rest), rest.value("detector/status/series_unique_id")
    assert first[0] == second[0] == 1 and first[1] != second[1]

"""The simulated DAQ is a good neighbour: it writes where it was told, and serves this machine alone."""

from __future__ import annotations

import os
import socket

import pytest
import requests

from ...std_daq import simulated_daq

OUTSIDE = ("another folder", "dots", "link to a file", "link to a folder")


@pytest.fixture(scope="module", params=["flask", "fastapi"])
def daq(request, tmp_path_factory):
    inside = tmp_path_factory.mktemp("inside")
    with simulated_daq(dialect=request.param, servers=(), writable=[inside]) as server:
        server.service.stop()
        server.inside = inside
        yield server


def path_to(what, inside, victim):
    if what == "another folder":
        return victim
    if what == "dots":
        return f"{inside}/{os.path.relpath(victim, inside)}"
    link = inside / what.replace(" ", "_")
    link.unlink(missing_ok=True)
    if what == "link to a file":
        link = link.with_suffix(".h5")
        link.unlink(missing_ok=True)
        link.symlink_to(victim)
        return link
    link.symlink_to(victim.parent)
    return link / victim.name


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("what", OUTSIDE)
def test_file_when_it_lies_outside_then_it_is_refused_and_nothing_is_touched(daq, tmp_path, what, exists):
    """`sim-std-daq-outside`: any file of the user was overwritten."""
    victim = tmp_path / "precious.txt"
    if exists:
        victim.write_text("precious")
    body = {"output_file": str(path_to(what, daq.inside, victim)), "n_images": 1, "run_id": 1}
    reply = requests.post(daq.url + "/writer/write_async", json=body, timeout=60).json()
    assert reply["status"] == "error"
    if what == "link to a file":
        assert "Cannot " in reply["message"]  # the newer dialect is silent where there was no file before
    else:
        assert "does not exist. Please create it first." in reply["message"]
        assert f"writes below {daq.inside} only" in reply["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"] * exists
    assert not exists or victim.read_text() == "precious"
    requests.post(daq.url + "/writer/stop", json={}, timeout=60)


def test_file_when_it_lies_inside_through_a_link_then_it_is_written(daq, wait_for):
    (daq.inside / "a").mkdir(exist_ok=True)
    (daq.inside / "b").symlink_to(daq.inside / "a") if not (daq.inside / "b").exists() else None
    body = {"output_file": str(daq.inside / "b" / "x.h5"), "n_images": 1, "run_id": 2}
    assert requests.post(daq.url + "/writer/write_async", json=body, timeout=60).json()["status"] == "ok"
    wait_for(lambda: daq.service.status()["state"] == "READY", "end")
    assert (daq.inside / "a" / "x.h5").exists()


@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ({"Host": "evil.example"}, "GET"),
        ({"Origin": "http://evil.example"}, "POST"),
        ({"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}, "OPTIONS"),
        ({"Origin": "http://localhost:1", "Access-Control-Request-Method": "POST"}, "OPTIONS"),
    ],
)
def test_request_when_a_page_elsewhere_sent_it_then_it_is_refused(daq, headers, method):
    path = "/writer/stop" if method == "POST" else "/writer/status"
    before = daq.service.status()
    reply = requests.request(method, daq.url + path, headers=headers, timeout=60)
    assert reply.status_code == 403 and "served here" in reply.text
    assert daq.service.status() == before
    assert requests.get(daq.url + "/writer/status", timeout=60).json()["status"] == "ok"


@pytest.mark.parametrize("chunked", [False, True])
def test_request_when_its_body_is_long_then_it_is_refused_unread(daq, chunked):
    host, _, port = daq.url.removeprefix("http://").partition(":")
    how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 10000000000"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /daq/config HTTP/1.1\r\nHost: localhost\r\n" + how + b"\r\n\r\n")
        assert b" 413 " in connection.recv(1000)

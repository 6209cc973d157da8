"""SimplonClient against servers that are not our simulator: odd replies, and the recorded exchanges."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.errors import (
    DetectorStateError,
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    SfdaqError,
    WireError,
)

from ..http_peer import reply_with, serving


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (reply_with(200, b"hello"), WireError, "not JSON"),
        (reply_with(200, b"[]"), WireError, "not a SIMPLON parameter"),
        (reply_with(404, b"404 Not Found", "text/html"), ServiceRefused, "404 Not Found"),
        (reply_with(500, b"\xff\xfe oops", "text/plain"), ServiceRefused, "oops"),
        (reply_with(200, b'{"value": "dreaming"}'), DetectorStateError, "unknown detector state 'dreaming'"),
    ],
)
def test_state_when_the_reply_is_odd_then_the_error_quotes_it(answer, error, words):
    with serving(answer) as url, pytest.raises(error, match=words):
        SimplonClient(url, "1.8.0", timeout=2).state()


def test_version_when_the_server_speaks_another_then_request_error():
    with serving(reply_with(200, b'{"value": "1.7.0"}')) as url:
        with pytest.raises(RequestError, match="1.8.0 or 1.6.0"):
            _ = SimplonClient(url, timeout=2).version


def test_arm_when_the_reply_names_no_series_then_it_is_said():
    with serving(reply_with(200, b"")) as url, pytest.raises(DetectorStateError, match="names no series"):
        SimplonClient(url, "1.8.0", timeout=2).arm()


def test_next_image_when_the_body_is_larger_than_any_frame_then_it_is_not_read():
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(2**40))
        handler.end_headers()

    with serving(answer) as url, pytest.raises(WireError, match="an image of 1099511627776 bytes"):
        SimplonClient(url, "1.8.0", timeout=2).next_image()


def test_next_image_when_the_body_drips_then_the_limit_holds():
    done = threading.Event()

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not done.wait(0.02):
                handler.wfile.write(b"x")

    started = time.monotonic()
    with serving(answer) as url:
        try:
            with pytest.raises(ServiceTimeout):
                SimplonClient(url, "1.8.0", timeout=0.3).next_image(0.1)
        finally:
            done.set()
    assert time.monotonic() - started < 5


def test_next_image_when_the_reply_is_no_http_then_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ServiceUnreachable, match="broken reply"):
            SimplonClient(url, "1.8.0", timeout=2).next_image()
        thread.join()


@pytest.fixture(scope="module")
def recording(request, data_dir):
    folder = request.config.getoption("--recordings") or data_dir / "eiger"
    files = sorted(folder.rglob("*rest*.jsonl")) if folder.exists() else []
    exchanges = [json.loads(line) for path in files for line in path.read_text().splitlines() if line.strip()]
    exchanges = [e for e in exchanges if e.get("request", {}).get("path", "").count("/api/") == 1]
    if not exchanges:
        pytest.skip(f"no recorded SIMPLON exchanges in {folder}")
    return exchanges


def test_client_when_given_each_recorded_reply_then_it_reads_what_was_said(recording):
    queue = iter(recording)

    def answer(handler):
        recorded = next(queue)["reply"]
        body = json.dumps(recorded["json"]) if "json" in recorded else recorded.get("text", "")
        reply_with(recorded["status"], body.encode(), recorded["content_type"])(handler)

    with serving(answer) as url:
        client = SimplonClient(url, "1.8.0", timeout=5)
        for exchange in recording:
            _check_reading(client, exchange)


def _check_reading(client, exchange):
    request, reply = exchange["request"], exchange["reply"]
    module_name, rest = request["path"].strip("/").split("/api/")
    _, task, name = (rest.split("/", 2) + ["", ""])[:3]
    recorded = reply.get("json")
    try:
        if request["method"] == "PUT" and task == "config":
            changed = client.put(module_name, name, request["body"]["value"])
            assert set(recorded) - {"difference_mode"} <= set(changed)
        elif request["method"] == "PUT":
            assert client.command(module_name, name) == recorded["sequence id"]
        elif name == "keys":
            assert client.keys(module_name, task) == recorded
        elif task in ("config", "status"):
            assert client.get(module_name, task, name).value == recorded["value"]
        elif task == "images" or rest == "version":
            client._checked("GET", request["path"], client._request("GET", request["path"]))
    except SfdaqError as exc:
        assert isinstance(exc, ServiceRefused) and exc.code == reply["status"] != 200, request["path"]
    else:
        assert reply["status"] == 200, request["path"]

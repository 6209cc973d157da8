"""SimplonClient against servers that are not our simulator: odd replies, and the recorded exchanges."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.errors import (
    DetectorStateError,
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    SfdaqError,
    UnknownOutcome,
    WireError,
)
from sfdaq_ophyd.wire.simplon import encode_darray
from sfdaq_ophyd.wire.tiff_write import TiffTags, encode

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
        SimplonClient(url, "1.8.0", timeout=60).state()


def test_version_when_the_server_speaks_another_then_request_error():
    with serving(reply_with(200, b'{"value": "1.7.0"}')) as url:
        with pytest.raises(RequestError, match="1.8.0 or 1.6.0"):
            _ = SimplonClient(url, timeout=60).version


def test_arm_when_the_reply_names_no_series_then_it_is_said():
    with serving(reply_with(200, b"")) as url, pytest.raises(DetectorStateError, match="names no series"):
        SimplonClient(url, "1.8.0", timeout=60).arm()


def test_next_image_when_the_body_is_larger_than_any_frame_then_it_is_not_read():
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(2**40))
        handler.end_headers()

    with serving(answer) as url, pytest.raises(WireError, match="an image of 1099511627776 bytes"):
        SimplonClient(url, "1.8.0", timeout=60).next_image()


def test_next_image_when_the_body_drips_then_the_limit_holds():
    done = threading.Event()

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not done.wait(0.02):
                handler.wfile.write(b"x")

    with serving(answer) as url:
        try:
            with pytest.raises(ServiceTimeout):
                SimplonClient(url, "1.8.0", timeout=0.3).next_image(0.1)
        finally:
            done.set()


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
            SimplonClient(url, "1.8.0", timeout=60).next_image()
        thread.join()


NO_IMAGE = reply_with(408, b"")
AWAY = reply_with(503, b"Service Unavailable", "text/plain")
IMAGE = reply_with(200, encode(np.ones((4, 8), "u2"), TiffTags(7, 42, "0" * 26, 10**9)), "image/tiff")


def in_turn(*answers):
    """Answer each request with the next one, and then always with the last."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def test_images_when_the_server_is_away_for_a_moment_then_it_is_waited_out():
    """Found as `eiger-503-once`."""
    with serving(in_turn(NO_IMAGE, AWAY, AWAY, IMAGE)) as url:
        images = SimplonClient(url, "1.8.0", timeout=60).images(threading.Event(), 0.0, give_up_after=30)
        assert next(images) is None
        assert next(images).event_id == "7_42"


def test_images_when_the_server_stays_away_then_its_own_words_are_raised():
    with serving(AWAY) as url, pytest.raises(ServiceRefused, match="503: 'Service Unavailable'"):
        next(SimplonClient(url, "1.8.0", timeout=60).images(threading.Event(), 0.0, give_up_after=0.2))


def test_images_when_the_server_refuses_then_it_is_not_asked_again():
    with serving(in_turn(reply_with(401, b"who are you"), NO_IMAGE)) as url:
        with pytest.raises(ServiceRefused, match="who are you"):
            next(SimplonClient(url, "1.8.0", timeout=60).images(threading.Event(), 0.0))


# ---- version


def only(path, value="1.8.0", other=reply_with):
    """Answer this path only."""
    then, other = reply_with(200, json.dumps({"value": value}).encode()), other(404, b"nothing here")
    return lambda handler: (then if handler.path == path else other)(handler)


def redirected(handler):
    handler.send_response(307)
    handler.send_header("Location", handler.path + "/")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize(
    "answer",
    [
        only("/detector/api/version"),
        only("/detector/api/version/"),
        only("/detector/api/version/", other=lambda *_: redirected),
    ],
    ids=["without", "with", "redirected"],
)
def test_version_when_the_server_wants_a_slash_or_not_then_it_is_found(answer):
    with serving(answer) as url:
        assert SimplonClient(url, timeout=60).version == "1.8.0"


def test_version_when_the_server_does_not_tell_then_it_is_said_what_to_give():
    """Found as `eiger-version-endpoint`."""
    with serving(only("/detector/api/1.8.0/status/state", "idle")) as url:
        client = SimplonClient(url, timeout=60)
        for call in (
            client.state,
            client.probe,
            client.next_image,
            lambda: client.get("detector", "config", "x"),
        ):
            with pytest.raises(
                RequestError, match="api_version=None: expected 1.8.0 or 1.6.0, given by hand"
            ):
                call()
        assert client.discover_version() is None
        assert SimplonClient(url, "1.8.0", timeout=60).probe() == "idle"


def test_probe_when_there_is_only_a_monitor_then_that_one_is_asked():
    with serving(only("/monitor/api/1.8.0/config/mode", "enabled")) as url:
        assert SimplonClient(url, "1.8.0", timeout=60).probe() is None
    with (
        serving(reply_with(404, b"nothing here")) as url,
        pytest.raises(ServiceRefused, match="nothing here"),
    ):
        SimplonClient(url, "1.8.0", timeout=60).probe()


# ---- masks


def wants(kind, then, other):
    return lambda handler: (then if handler.headers["Accept"] == kind else other)(handler)


MASK = np.array([[0, 1, 2**31], [3, 0, 2**32 - 1]], "<u4")
AS_DARRAY = reply_with(200, json.dumps({"value": encode_darray(MASK)}).encode())


@pytest.mark.parametrize(
    "answer",
    [
        wants("image/tiff", reply_with(200, encode(MASK), "image/tiff"), AS_DARRAY),
        AS_DARRAY,
        wants("application/json", AS_DARRAY, reply_with(406, b"no")),
        wants("application/json", AS_DARRAY, reply_with(200, b"II*", "image/tiff")),
        reply_with(200, json.dumps({"value": MASK.tolist()}).encode()),
    ],
    ids=["tiff", "darray", "tiff refused", "tiff broken", "lists"],
)
def test_get_array_when_the_server_has_its_own_form_then_the_mask_is_read(answer):
    asked = []

    def noted(handler):
        asked.append(handler.headers["Accept"])
        answer(handler)

    with serving(noted) as url:
        mask = SimplonClient(url, "1.8.0", timeout=60).get_array("pixel_mask")
    assert asked[0] == "image/tiff"
    assert mask.dtype == np.dtype("<u4") and (mask == MASK).all()


def test_get_array_when_a_server_has_none_then_it_is_empty():
    with serving(reply_with(200, b'{"value": [[]]}')) as url:
        assert SimplonClient(url, "1.8.0", timeout=60).get_array("pixel_mask").size == 0


@pytest.mark.parametrize("value", ["hello", [[1], [2, 3]], [[-1]], [["a"]], 5, None, {"a": 1}])
def test_get_array_when_it_is_none_then_wire_error(value):
    with serving(reply_with(200, json.dumps({"value": value}).encode())) as url, pytest.raises(WireError):
        SimplonClient(url, "1.8.0", timeout=60).get_array("pixel_mask")


def test_next_image_when_broken_off_then_waited_out_the_server_gives_no_image_to_nobody():
    image, images, asked = encode(np.zeros((2, 2), "u2"), TiffTags(1, 0, "0" * 26, 10**18)), [], queue.Queue()
    news = threading.Condition()

    def answer(handler):  # never looks whether its client is still there
        asked.put(handler.path)
        with news:
            there = news.wait_for(lambda: images, float(handler.path.rpartition("=")[2]) / 1000)
            code, body = (200, images.pop()) if there else (408, b"")
        reply_with(code, body)(handler)

    with serving(answer) as url, ThreadPoolExecutor(1) as pool:
        client = SimplonClient(url, "1.8.0", timeout=60)
        broken_off = pool.submit(client.next_image, 0.3)
        asked.get(timeout=30)
        client.interrupt()
        assert isinstance(broken_off.exception(120), ServiceUnreachable)
        client.wait_out_images()
        with news:
            images.append(image)
            news.notify_all()
        assert client.next_image(10.0).event_id == "1_0"


# ---- commands


@pytest.mark.parametrize("body", [b'{"a":' * 5000, b'{"sequence id": "x"}', b"<html>"])
def test_command_when_its_reply_cannot_be_read_then_unknown_outcome_and_sent_once(body):
    sent = []

    def answer(handler):
        sent.append(handler.path)
        reply_with(200, body)(handler)

    with serving(answer) as url, pytest.raises(UnknownOutcome, match="status/state before sending it again"):
        SimplonClient(url, "1.8.0", timeout=60).arm()
    assert len(sent) == 1


def test_trigger_when_reply_and_state_are_lost_then_unknown_outcome():
    def answer(handler):
        handler.close_connection = True

    with serving(answer) as url, pytest.raises(UnknownOutcome, match="command/trigger"):
        SimplonClient(url, "1.8.0", timeout=60).trigger(0.1)


def test_trigger_when_inte_replies_early_then_back_only_once_the_detector_exposes_no_more():
    states = ["acquire", "acquire", "ready", "ready"]  # as a unit says that begins later than it replies

    def answer(handler):
        reply = {"value": states.pop(0)} if handler.path.endswith("status/state") else {"sequence id": 1}
        reply_with(200, json.dumps(reply).encode())(handler)

    with serving(answer) as url:
        SimplonClient(url, "1.8.0", timeout=60).trigger(0.001, 0.001)
    assert states == ["ready"]


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
        client = SimplonClient(url, "1.8.0", timeout=60)
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
            client._asked("GET", request["path"])
    except SfdaqError as exc:
        assert isinstance(exc, ServiceRefused) and exc.code == reply["status"] != 200, request["path"]
    else:
        assert reply["status"] == 200, request["path"]

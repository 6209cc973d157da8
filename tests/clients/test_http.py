"""The HTTP base against a raw socket server that misbehaves on purpose."""

import socket
import threading

import pytest

from sfdaq_ophyd.clients._http import HttpService, check_url
from sfdaq_ophyd.errors import RequestError, ServiceTimeout, ServiceUnreachable, UnknownOutcome, WireError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answer each connection with the next of `replies`: bytes, None to hang up, an Event to wait on."""

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        for reply in self.replies:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(65536)
                while b'"a"' not in request and b"Content-Length: 8" in request:
                    request += connection.recv(65536)
                self.requests.append(request)
                if isinstance(reply, threading.Event):
                    reply.wait(10)
                elif reply is not None:
                    connection.sendall(reply)

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture
def serve():
    servers = []

    def start(*replies):
        servers.append(Server(*replies))
        return servers[-1]

    yield start
    for server in servers:
        for reply in server.replies:
            if isinstance(reply, threading.Event):
                reply.set()
        server.close()


def test_request_when_answered_then_reply_whole(serve):
    server = serve(OK)
    reply = HttpService(server.url, name="svc").request("GET", "/x", payload={"a": 1})
    assert (reply.code, reply.content_type, reply.json()) == (200, "application/json", {})
    assert server.requests[0].startswith(b"GET /x ") and server.requests[0].endswith(b'{"a": 1}')


def test_request_when_reply_lost_and_not_idempotent_then_unknown_and_sent_once(serve):
    server = serve(None, OK)
    with pytest.raises(UnknownOutcome, match="outcome unknown. Look."):
        HttpService(server.url, name="svc").request("POST", "/x", payload={}, hint="Look.")
    assert len(server.requests) == 1


def test_request_when_reply_lost_and_idempotent_then_repeated(serve):
    server = serve(None, None, OK)
    reply = HttpService(server.url, name="svc").request("GET", "/x", idempotent=True, backoff=0.01)
    assert reply.code == 200 and len(server.requests) == 3


def test_request_when_server_hangs_then_unknown_or_timeout(serve):
    server = serve(threading.Event(), threading.Event())
    service = HttpService(server.url, name="svc", timeout=0.1)
    with pytest.raises(UnknownOutcome):
        service.request("POST", "/x")
    with pytest.raises(ServiceTimeout, match="GET /x"):
        service.request("GET", "/x", idempotent=True, attempts=1)


def test_request_when_nobody_listens_then_unreachable_names_url():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServiceUnreachable, match=f"{url} is not reachable"):
        HttpService(url, name="svc").request("POST", "/x", attempts=2, backoff=0.01)


def test_request_when_body_above_limit_then_wire_error(serve):
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
    with pytest.raises(WireError, match="exceeds 100 bytes"):
        HttpService(server.url, name="svc").request("GET", "/x", max_reply=100)


def test_request_when_payload_has_nan_then_refused_before_sending(serve):
    server = serve(OK)
    with pytest.raises(RequestError, match="plain JSON"):
        HttpService(server.url, name="svc").request("POST", "/x", payload={"a": float("nan")})
    assert server.requests == []


def test_reply_when_html_then_json_is_a_wire_error(serve):
    server = serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>")
    reply = HttpService(server.url, name="svc").request("GET", "/x")
    with pytest.raises(WireError, match="not JSON: '<html>'"):
        reply.json()


@pytest.mark.parametrize("url", ["", None, 5, "ftp://host", "http://", "http://host:99999"])
def test_check_url_when_not_an_address_then_refused(url):
    with pytest.raises(RequestError, match="url="):
        check_url(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [("host:80", "http://host:80"), ("http://h/", "http://h"), ("http://h/a/", "http://h/a")],
)
def test_check_url_when_short_form_then_completed(url, expected):
    assert check_url(url) == expected

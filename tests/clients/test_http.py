"""The HTTP base against a raw socket server that misbehaves on purpose."""

import contextlib
import gzip
import itertools
import math
import select
import socket
import subprocess
import sys
import threading

import pytest

from sfdaq_ophyd.clients import BrokerClient, SimplonClient, StdDaqClient, StdDaqWriterSocket, _http_call
from sfdaq_ophyd.clients._http import HttpClient, check_url
from sfdaq_ophyd.errors import RequestError, ServiceTimeout, ServiceUnreachable, UnknownOutcome, WireError
from sfdaq_ophyd.limits import Limit

from ..devices.suspended import suspended

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}"


def go_to(where, code=307):
    head = f"HTTP/1.1 {code} Go\r\nLocation: {where}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    return head.encode()


def last(reply):
    """Have a reply say that its connection ends: a client must not race with the end for its next call."""
    line, end, rest = reply.partition(b"\r\n")
    return line + end + b"Connection: close\r\n" + rest if end and line.startswith(b"HTTP/1.1 ") else reply


class Server:
    """Answer each connection with the next of `replies`.

    Bytes, the last on their connection; None to hang up; an Event to wait on; or a function that is given the
    connection.
    """

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
                if not self.hear(connection):
                    continue
                if callable(reply):
                    with contextlib.suppress(OSError):
                        reply(connection)
                elif isinstance(reply, threading.Event):
                    reply.wait(600)  # until the test is over
                elif reply is not None:
                    connection.sendall(last(reply))

    def hear(self, connection):
        request = connection.recv(65536)
        while b'"a"' not in request and b"Content-Length: 8" in request:
            request += connection.recv(65536)
        if request:
            self.requests.append(request)
        return request

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(60)


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
    reply = HttpClient(server.url, name="svc").request("GET", "/x", payload={"a": 1})
    assert (reply.code, reply.content_type, reply.json()) == (200, "application/json", {})
    assert server.requests[0].startswith(b"GET /x ") and server.requests[0].endswith(b'{"a": 1}')


def test_request_when_reply_lost_and_not_idempotent_then_unknown_and_sent_once(serve):
    server = serve(None, OK)
    with pytest.raises(UnknownOutcome, match="outcome unknown. Look."):
        HttpClient(server.url, name="svc").request("POST", "/x", payload={}, hint="Look.")
    assert len(server.requests) == 1


def test_request_when_reply_lost_and_idempotent_then_repeated(serve):
    server = serve(None, None, OK)
    reply = HttpClient(server.url, name="svc").request("GET", "/x", idempotent=True, backoff=0.01)
    assert reply.code == 200 and len(server.requests) == 3


def test_request_when_server_hangs_then_unknown_or_timeout(serve):
    server = serve(threading.Event(), threading.Event())
    service = HttpClient(server.url, name="svc", timeout=2.0)
    with pytest.raises(UnknownOutcome):
        service.request("POST", "/x")
    with pytest.raises(ServiceTimeout, match="GET /x"):
        service.request("GET", "/x", idempotent=True, attempts=1)


def test_request_when_nobody_listens_then_unreachable_names_url(closed_port):
    url = f"http://127.0.0.1:{closed_port}"
    with pytest.raises(ServiceUnreachable, match=f"{url} is not reachable"):
        HttpClient(url, name="svc").request("POST", "/x", attempts=2, backoff=0.01)


def test_request_when_body_above_limit_then_wire_error(serve):
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
    with pytest.raises(WireError, match="exceeds 100 bytes"):
        HttpClient(server.url, name="svc").request("GET", "/x", max_reply=100, idempotent=True)


def test_request_when_payload_has_nan_then_refused_before_sending(serve):
    server = serve(OK)
    with pytest.raises(RequestError, match="plain JSON"):
        HttpClient(server.url, name="svc").request("POST", "/x", payload={"a": float("nan")})
    assert server.requests == []


def test_reply_when_html_then_json_is_a_wire_error(serve):
    server = serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>")
    reply = HttpClient(server.url, name="svc").request("GET", "/x")
    with pytest.raises(WireError, match="not JSON: '<html>'"):
        reply.json()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MANY = 200
"""Pieces a drip has, one each 0.05 s: far more than the limits of the calls below have room for."""


class Drip:
    """Send `first`, then piece after piece; `n` tells how many went out before the caller hung up."""

    def __init__(self, first, pieces):
        self.first, self.pieces, self.n = first, pieces, 0

    def __call__(self, connection):
        connection.sendall(self.first)
        for piece in itertools.islice(itertools.cycle(self.pieces), MANY):
            connection.sendall(piece)
            self.n += 1
            if hung_up(connection, 0.05):
                return


def hung_up(connection, seconds):
    """Wait until the caller hangs up, `seconds` as it counts them at the most; return whether it has."""
    limit = Limit(seconds)
    while not limit.reached():
        if select.select([connection], [], [], limit.step(0.1))[0]:
            return True
    return False


def one_by_one(text):
    return [bytes([byte]) for byte in text]


DRIPS = {
    "status line": (b"", one_by_one(b"HTTP/1.1 200 OK and so on ")),
    "header": (b"HTTP/1.1 200 OK\r\nX-A: ", [b"b"]),
    "headers": (b"HTTP/1.1 200 OK\r\n", one_by_one(b"X-A: b\r\n")),
    "body": (HEAD + b"Content-Length: 100000\r\n\r\n", [b"x"]),
    "body without length": (b"HTTP/1.0 200 OK\r\n\r\n", [b"x"]),
    "chunks": (CHUNKED, [b"1\r\nx\r\n"]),
    "length of a chunk": (CHUNKED, [b"0"]),
    "trailers": (CHUNKED + b"0\r\n", one_by_one(b"X-A: b\r\n")),
    "100 Continue": (b"", [b"HTTP/1.1 100 Continue\r\n\r\n"]),
}


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize("where", DRIPS)
def test_request_when_the_peer_drips_then_it_ends_at_its_limit(serve, where, idempotent):
    """Found as `http-drip`."""
    drip = Drip(*DRIPS[where])
    service = HttpClient(serve(drip).url, name="svc", timeout=1.0)
    with pytest.raises(ServiceTimeout if idempotent else UnknownOutcome, match=r"1 s"):
        service.request("GET", "/x", idempotent=idempotent)
    assert drip.n < MANY / 2


def test_request_when_100_continue_comes_without_end_and_pause_then_it_ends(serve):
    def flood(connection):
        connection.settimeout(60)
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    with pytest.raises(ServiceTimeout):
        HttpClient(serve(flood).url, name="svc", timeout=0.2).request("GET", "/x", idempotent=True)


def test_request_when_redirects_are_slow_then_all_of_them_share_one_limit(serve):
    def slow(connection):
        hung_up(connection, 1.5)
        connection.sendall(
            b"HTTP/1.1 307 Go\r\nLocation: /y\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )

    server = serve(slow, slow, slow, OK)
    with pytest.raises(ServiceTimeout):
        HttpClient(server.url, name="svc", timeout=2.0).request("GET", "/x", idempotent=True)
    assert len(server.requests) < 4


def test_request_when_the_reply_takes_longer_than_the_limit_in_small_steps_then_a_longer_limit_has_it(serve):
    def steps(connection):
        connection.sendall(HEAD + b"Content-Length: 8\r\n\r\n")
        for piece in (b"[1", b",2", b",3", b"] "):
            if not hung_up(connection, 1.0):
                connection.sendall(piece)

    service = HttpClient(serve(steps, steps).url, name="svc", timeout=1.0)
    with pytest.raises(ServiceTimeout):
        service.request("GET", "/x", idempotent=True)
    assert service.request("GET", "/x", idempotent=True, timeout=60).json() == [1, 2, 3]


ASKS = """
import sys
from sfdaq_ophyd.clients._http import HttpClient
print(HttpClient(sys.argv[1], name="svc", timeout=6.0).request("POST", "/x").code)
"""


def test_request_when_its_process_was_suspended_longer_than_the_limit_then_the_reply_is_taken(
    serve, wait_for
):
    go_on = threading.Event()

    def late(connection):
        go_on.wait(60)
        connection.sendall(OK)

    server = serve(late)
    with subprocess.Popen(
        [sys.executable, "-c", ASKS, server.url], stdout=subprocess.PIPE, text=True
    ) as child:
        wait_for(lambda: server.requests, "the request")
        with suspended(child, 6.5):
            go_on.set()
        assert child.stdout.read() == "200\n"


def test_request_when_a_call_that_must_not_be_repeated_times_out_then_it_was_sent_once(serve):
    hang = threading.Event()
    server = serve(hang, OK)
    service = HttpClient(server.url, name="svc", timeout=2.0)
    with pytest.raises(UnknownOutcome, match="none within 2 s"):
        service.request("POST", "/x", payload={}, attempts=3, backoff=0.0)
    hang.set()
    assert service.request("GET", "/after", idempotent=True, timeout=60).code == 200
    assert [request.split()[1] for request in server.requests] == [b"/x", b"/after"]


def test_request_when_nobody_answers_names_then_it_ends_at_its_limit(monkeypatch):
    silent = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: silent.wait(60))
    with pytest.raises(ServiceUnreachable, match="looking up dcu timed out"):
        HttpClient("http://dcu", name="svc", timeout=0.2).request("POST", "/x")
    silent.set()


deep = b'{"value":' * 50_000
bomb = gzip.compress(b"[" + b" " * 2**20 + b"]")
BROKEN = {
    "gzip that is none": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n0123456789",
    "gzip that is cut": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 12\r\n\r\n" + bomb[:12],
    "gzip that grows": HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb,
    "an unknown encoding": HEAD + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
    "deep": HEAD + b"Content-Length: %d\r\n\r\n" % len(deep) + deep,
    "no JSON": HEAD + b"Content-Length: 2\r\n\r\n{]",
    "too large": HEAD + b"Content-Length: 999999999999\r\n\r\n{}",
    "too large without length": HEAD + b"Connection: close\r\n\r\n{}" + b" " * 2**20,
    "too large in chunks": CHUNKED + b"100002\r\n{}" + b" " * 2**20 + b"\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-1\r\n{}" + b" " * 2**20,
    "a chunk without number": CHUNKED + b"xyz\r\n",
    "a cut body": HEAD + b"Content-Length: 100\r\n\r\n{}",
    "a cut chunk": CHUNKED + b"5\r\n{}",
    "a cut header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a cut status line": b"HTTP/1.1 2",
    "no number": b"HTTP/1.1 two hundred\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "a long header": HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
    "many headers": HEAD + b"X: y\r\n" * 500 + b"\r\n",
    "silence": None,
}


@pytest.mark.parametrize("what", BROKEN)
def test_request_when_the_reply_is_broken_then_unknown_outcome_and_the_service_goes_on(serve, what):
    """Found as `http-undecodable`: whatever goes wrong after the first byte was sent."""
    server = serve(BROKEN[what], OK)
    service = HttpClient(server.url, name="svc", timeout=60)
    with pytest.raises(UnknownOutcome, match="Look."):
        service.request("POST", "/x", hint="Look.", max_reply=2**19, read=lambda reply: reply.json())
    assert service.request("POST", "/y", payload={}, read=lambda reply: reply.json()) == {}
    assert [request.split()[1] for request in server.requests] == [b"/x", b"/y"]


@pytest.mark.parametrize("end", [b"", b"Content-Length: 0", b"Content-Length: 0\r\n", b"X: y\r"])
def test_request_when_the_connection_ends_within_the_head_then_it_is_no_empty_reply(serve, end):
    """A command's reply is empty where all is well: it must not look like that."""
    service = HttpClient(serve(HEAD + end).url, name="svc", timeout=60)
    with pytest.raises(UnknownOutcome, match="broken reply"):
        service.request("PUT", "/x")


@pytest.mark.parametrize("what", BROKEN)
def test_request_when_the_reply_to_an_idempotent_call_is_broken_then_an_error_of_ours(serve, what):
    service = HttpClient(serve(BROKEN[what], OK).url, name="svc", timeout=60)
    with pytest.raises((WireError, ServiceUnreachable)):
        service.request(
            "GET", "/x", idempotent=True, attempts=1, max_reply=2**19, read=lambda reply: reply.json()
        )


def test_reply_when_compressed_though_not_asked_then_it_is_read_all_the_same(serve):
    body = gzip.compress(b"[1]")
    server = serve(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert HttpClient(server.url, name="svc").request("GET", "/x").json() == [1]
    assert b"identity" in server.requests[0]


def test_request_when_the_server_is_away_then_an_idempotent_call_is_repeated_and_no_other(serve):
    away = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    server = serve(away, OK, away, OK)
    service = HttpClient(server.url, name="svc")
    assert service.request("GET", "/x", idempotent=True, backoff=0.01).code == 200
    assert service.request("POST", "/x", backoff=0.01).code == 503
    assert len(server.requests) == 3


# ---- connections


def test_request_when_the_connection_is_kept_then_the_next_call_uses_it(serve):
    def twice(connection):
        connection.sendall(OK)
        server.hear(connection)
        connection.sendall(OK)

    server = serve(twice, OK)
    service = HttpClient(server.url, name="svc")
    assert [service.request("POST", path).code for path in ("/x", "/y")] == [200, 200]
    assert len(server.replies) == 2 and [r.split()[1] for r in server.requests] == [b"/x", b"/y"]
    service.close()


def test_request_when_connections_are_not_kept_then_each_call_has_its_own_whatever_the_server_says(serve):
    def closes_without_a_word(connection):
        connection.sendall(OK)

    server = serve(closes_without_a_word, closes_without_a_word)
    service = HttpClient(server.url, name="svc", keep_alive=False)
    for path in ("/x", "/y"):
        assert service.request("POST", path).code == 200
        assert service._connections._idle == []
    assert all(b"Connection: close" in request for request in server.requests)


def test_request_when_the_server_closed_the_kept_connection_then_the_next_call_works(serve, wait_for):
    server = serve(lambda connection: connection.sendall(OK), OK)
    service = HttpClient(server.url, name="svc")
    service.request("POST", "/x")
    (connection, _) = service._connections._idle[0]
    wait_for(connection.has_news, "the end of the connection")
    assert service.request("POST", "/y").code == 200


def test_request_when_a_reply_comes_twice_then_the_second_is_nobodys(serve, wait_for):
    one, two, three = (HEAD + b"Content-Length: 1\r\n\r\n%d" % n for n in (1, 2, 3))
    sent, go_on = threading.Event(), threading.Event()

    def double(connection):
        connection.sendall(one)
        sent.wait(60)
        connection.sendall(two)
        go_on.wait(60)

    service = HttpClient(serve(double, three).url, name="svc")
    assert service.request("GET", "/x").json() == 1
    (connection, _) = service._connections._idle[0]
    sent.set()
    wait_for(connection.has_news, "the second reply")
    go_on.set()
    assert service.request("GET", "/y").json() == 3


def test_request_when_a_connection_was_idle_for_long_then_a_new_one_is_opened(serve, monkeypatch):
    monkeypatch.setattr(_http_call, "LONGEST_IDLE", 0.0)

    def once(connection):
        connection.sendall(OK)
        connection.recv(1)  # until the client closes it; another request has no answer

    server = serve(once, OK)
    service = HttpClient(server.url, name="svc", timeout=60)
    assert [service.request("POST", path).code for path in ("/x", "/y")] == [200, 200]
    assert len(server.requests) == 2


def test_interrupt_when_a_call_waits_then_it_ends_at_once_and_the_next_one_works(serve, wait_for):
    hang = threading.Event()
    server = serve(hang, OK)
    service, raised = HttpClient(server.url, name="svc", timeout=30), []

    def ask():
        try:
            service.request("GET", "/x", idempotent=True, attempts=1)
        except ServiceUnreachable as exc:
            raised.append(str(exc))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: server.requests, "the request")
    service.interrupt()
    thread.join(60)
    assert len(raised) == 1 and "broken off" in raised[0]
    hang.set()
    assert service.request("GET", "/y").code == 200


# ---- addresses


def test_request_when_the_address_has_path_and_login_then_both_are_on_every_request(serve):
    """Found as `eiger-url-prefix-auth`."""
    server = serve(go_to("/dcu/v/"), OK)
    url = server.url.replace("//", "//me:s%40cret@") + "/dcu/"
    service = HttpClient(url, name="svc")
    assert service.url == f"{server.url}/dcu"
    assert service.request("GET", "/v?timeout=100").code == 200
    assert [request.split()[1] for request in server.requests] == [b"/dcu/v?timeout=100", b"/dcu/v/"]
    assert all(b"Authorization: Basic bWU6c0BjcmV0\r\n" in request for request in server.requests)


@pytest.mark.parametrize("location", ["http://127.0.0.1:9/x", "https://there", "//there", "http://[", ""])
def test_request_when_a_redirect_leads_elsewhere_then_it_is_not_followed(serve, location):
    server = serve(go_to(location, 302), OK)
    assert HttpClient(server.url, name="svc").request("GET", "/x").code == 302
    assert len(server.requests) == 1


def test_request_when_redirects_go_in_circles_then_they_end(serve):
    server = serve(*[go_to("/x")] * 9)
    assert HttpClient(server.url, name="svc").request("PUT", "/x", payload={}).code == 307
    assert 2 <= len(server.requests) < 9


@pytest.mark.parametrize("code", [301, 302, 303])
def test_request_when_a_command_is_redirected_as_a_page_then_it_is_not_turned_into_another(serve, code):
    server = serve(go_to("/y", code), OK)
    assert HttpClient(server.url, name="svc").request("PUT", "/x").code == code
    assert len(server.requests) == 1


def test_request_when_the_path_has_odd_characters_then_they_are_quoted(serve):
    server = serve(OK)
    HttpClient(server.url, name="svc").request("GET", "/a b/\u00fc\x00?c=d e\r\nX: y")
    assert server.requests[0].startswith(b"GET /a%20b/%C3%BC%00?c=d%20eX:%20y HTTP/1.1\r\n")


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'x' * 70}.ch", "http://\u00e9..ch"])
def test_service_when_the_host_is_no_name_then_refused(url):
    with pytest.raises(RequestError, match="an address such as"):
        HttpClient(url, name="svc")


@pytest.mark.parametrize(
    "url", ["ftp://me:s3cret@host", "http://me:s3cret@host:port", "me:s3cret@host:99999", "http://:s3cret@"]
)
def test_check_url_when_wrong_then_the_message_keeps_the_password(url):
    with pytest.raises(RequestError) as info:
        check_url(url)
    assert "s3cret" not in str(info.value)


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


def test_request_when_its_body_is_taken_by_pieces_then_the_limit_is_for_each(serve):
    sent, pieces, piece_came = [], [], threading.Event()

    def drip(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        limit = Limit(3.2)  # longer than the client's
        while not limit.reached():
            sent.append(b"%d;" % len(sent))
            piece_came.clear()
            connection.sendall(sent[-1])
            piece_came.wait(60)
            limit.wait(threading.Event(), 0.2)

    def receive(head):
        return lambda piece: (pieces.append(bytes(piece)), piece_came.set())

    client = HttpClient(serve(drip).url, name="service", timeout=3.0)
    reply = client.request("GET", "/", idempotent=True, receive=receive)
    assert b"".join(pieces) == b"".join(sent) and not reply.body


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 3600, "5", None, True])
def test_timeout_when_it_is_no_number_of_seconds_then_it_is_refused_by_every_client(timeout):
    for make in (HttpClient, BrokerClient, StdDaqClient, StdDaqWriterSocket, SimplonClient):
        more = {"name": "svc"} if make is HttpClient else {}
        with pytest.raises(RequestError, match="timeout=.*: expected seconds above 0 and below 3600"):
            make("http://h:1", timeout=timeout, **more)

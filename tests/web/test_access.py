"""Who sees the page, and who does not."""

import re

import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.web import Watch
from sfdaq_ophyd.web.app import COOKIE, is_loopback, token_for

from .conftest import served

TOKEN = "0123456789abcdef"


class Client(requests.Session):
    def __init__(self, url):
        super().__init__()
        self.url = url

    def get(self, path, **options):
        return super().get(self.url + path, timeout=60, **options)

    def first_message(self, **headers):
        """Open the socket with the cookies of this session; return what comes first."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers |= {"Cookie": cookies} if cookies else {}
        options = {"additional_headers": headers, "open_timeout": 120}
        with connect(self.url.replace("http", "ws") + "/api/live", **options) as socket:
            return socket.recv(timeout=60)


@pytest.fixture(scope="module")
def local_url():
    with served(Watch([])) as url:
        yield url


@pytest.fixture(scope="module")
def guarded_url():
    with served(Watch([]), TOKEN) as url:
        yield url


@pytest.fixture
def local(local_url):
    with Client(local_url) as client:
        yield client


@pytest.fixture
def guarded(guarded_url):
    with Client(guarded_url) as client:
        yield client


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8050", "localhost:8050", "[::1]:8050"])
def test_request_when_it_names_this_machine_then_served(local, host):
    reply = local.get("/", headers={"Host": host})
    assert reply.status_code == 200
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example"])
def test_request_when_it_names_another_host_then_refused(local, host):
    assert local.get("/api/state", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("headers", [{"Host": "["}, {"Host": "[::1"}, {"Origin": "http://["}])
def test_request_when_its_host_or_origin_is_no_address_then_refused(local, guarded, headers):
    for client in (local, guarded):
        assert client.get("/", headers=headers).status_code == 400
    if "Origin" in headers:
        with pytest.raises((InvalidStatus, ConnectionClosed)) as info:
            guarded.first_message(**headers)
        assert "500" not in str(info.value)


def test_socket_when_opened_by_another_page_then_refused(local):
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        local.first_message(Origin="http://evil.example")
    assert local.first_message(Origin=local.url)


@pytest.mark.parametrize(
    "path", ["/", "/api/state", "/static/watch.js", "/api/pixel/x?x=1&y=1", "/?token=wrong"]
)
def test_request_when_the_token_is_missing_or_wrong_then_refused(guarded, path):
    assert guarded.get(path).status_code == 401


def test_socket_when_the_token_is_missing_then_refused(guarded):
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        guarded.first_message()


def test_token_when_given_once_then_kept_in_a_cookie_and_out_of_the_address(guarded):
    reply = guarded.get(f"/?token={TOKEN}", allow_redirects=False)
    assert reply.status_code == 303 and reply.headers["Location"] == "/"
    assert re.search(rf"{COOKIE}={TOKEN}; HttpOnly; .*SameSite=strict", reply.headers["Set-Cookie"])
    assert guarded.get("/api/state").status_code == 200
    assert '"n_viewers": 1' in guarded.first_message()


def test_token_when_borne_then_served(guarded):
    assert guarded.get("/api/state", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_token_when_bound_elsewhere_then_made_and_otherwise_not():
    assert token_for("127.0.0.1") == token_for("localhost") == token_for("::1") == ""
    assert len(token_for("0.0.0.0")) >= 32 and token_for("0.0.0.0") != token_for("0.0.0.0")
    assert token_for("127.0.0.1", TOKEN) == TOKEN
    with pytest.raises(RequestError, match="16 characters") as caught:
        token_for("0.0.0.0", "secret")
    assert "secret" not in str(caught.value)


def test_loopback_when_a_name_only_looks_like_it_then_not():
    assert is_loopback("127.0.0.9") and not is_loopback("127.0.0.1.evil.example") and not is_loopback("")


@pytest.mark.parametrize("path", ["/api/picture/none.png", "/api/pixel/none?x=1&y=1"])
def test_detector_when_unknown_then_422_with_its_name(local, path):
    reply = local.get(path)
    assert reply.status_code == 422 and "'none'" in reply.json()["error"]

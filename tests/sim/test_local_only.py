import pytest

from sfdaq_ophyd.sim.http import refusal


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "127.0.0.1:5000"},
        {"Host": "localhost"},
        {"Host": "[::1]:80", "Origin": "http://localhost:3000"},
        {"Host": "129.129.1.2", "Origin": "http://127.0.0.1"},
    ],
)
def test_request_when_it_may_come_from_this_machine_then_served(headers):
    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        assert refusal(method, headers) is None


@pytest.mark.parametrize(
    ("method", "headers", "message"),
    [
        ("GET", {"Host": "evil.example"}, "Host 'evil.example' is not served here"),
        ("GET", {"Host": "localhost.evil.example:80"}, "is not served here"),
        ("GET", {"Host": ""}, "is not served here"),
        ("GET", {"Host": "127.0.0.1.evil.example"}, "is not served here"),
        ("GET", {"Host": "[not an address"}, "is not served here"),
        (
            "POST",
            {"Host": "127.0.0.1", "Origin": "https://evil.example"},
            "pages from 'https://evil.example'",
        ),
        ("POST", {"Host": "127.0.0.1", "Origin": "null"}, "pages from 'null'"),
        ("OPTIONS", {"Host": "127.0.0.1"}, "no cross-origin requests"),
        ("options", {}, "no cross-origin requests"),
    ],
)
def test_request_when_a_page_elsewhere_made_a_browser_send_it_then_refused(method, headers, message):
    assert message in refusal(method, headers)

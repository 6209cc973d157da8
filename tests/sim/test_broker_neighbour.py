"""The simulated broker writes only below its folder, serves no foreign pages, and forgets in the end."""

from __future__ import annotations

import http.client
import json
import sys
from urllib.parse import urlsplit

import pytest

from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.http import BoundedLog

from .broker_http import post


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    directory = tmp_path_factory.mktemp("facility")
    with Facility(only=["broker"], broker_delays=0.0, directory=directory) as facility:
        yield facility.broker


def answer(url, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request(method, path, body, {"Content-Type": "application/json", **headers})
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply


@pytest.mark.parametrize("service", ["url", "slow_url"])
@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {"Host": "evil.example"}),
        ("POST", {"Origin": "https://evil.example"}),
        ("OPTIONS", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}),
    ],
)
def test_request_when_it_is_of_a_foreign_page_then_refused_and_nothing_is_done(
    broker, service, method, headers
):
    before = len(broker.requests())
    path = "/advance_run_number" if service == "url" else "/set_dap_settings"
    reply = answer(getattr(broker, service), method, path, json.dumps({"pgroup": "p12345"}), **headers)
    assert reply.status == 403 and not reply.getheader("Access-Control-Allow-Origin")
    assert len(broker.requests()) == before


OUTSIDE = ["p12345/../../../../../../outside", "../../../../../outside", "/outside", "p12345/raw/link"]


@pytest.mark.parametrize("pgroup", OUTSIDE)
def test_pgroup_when_it_leads_out_of_the_folder_then_not_reachable_and_nothing_is_written(
    broker, tmp_path, pgroup
):
    outside = tmp_path / "outside"
    (outside / "raw").mkdir(parents=True)
    link = broker.root / "bernina" / "data" / "p12345" / "raw" / "link"
    if not link.is_symlink():
        link.symlink_to(outside)
    pgroup = pgroup.replace("/outside", str(outside))
    now = broker.site.clock.now()
    asked = {"pgroup": pgroup, "start_pulseid": now - 5, "stop_pulseid": now - 3, "pv_list": ["P"]}
    calls = [
        (broker.url, "advance_run_number", {"pgroup": pgroup}),
        (broker.url, "retrieve_from_buffers", asked),
        (broker.url, "take_pedestal", {"pgroup": pgroup, "detectors": {"JF01T03V01": {}}}),
        (broker.slow_url, "copy_user_files", {"pgroup": pgroup, "run_number": 0, "files": []}),
    ]
    for url, endpoint, body in calls:
        assert post(url, endpoint, body)["status"] == "error", endpoint
    assert [path.name for path in outside.rglob("*")] == ["raw"]


def test_user_file_when_it_links_out_of_the_folder_then_not_copied(broker, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    now = broker.site.clock.now()
    asked = {"pgroup": "p12345", "start_pulseid": now - 5, "stop_pulseid": now - 3, "pv_list": []}
    run = int(post(broker.url, "retrieve_from_buffers", asked)["run_number"])
    (broker.root / "bernina" / "data" / "p12345" / "link").symlink_to(secret)
    name = "/sf/bernina/data/p12345/link"
    body = {"pgroup": "p12345", "run_number": run, "files": [name]}
    assert post(broker.slow_url, "copy_user_files", body)["error_files"] == {
        name: f'file "{name}" does not exist'
    }


def test_log_when_clients_fill_it_then_the_oldest_go():
    log = BoundedLog(n_bytes=20_000)
    for number in range(1000):
        log.append(number, size=number % 3 * 1000)
    kept = list(log)
    assert kept == list(range(1000 - len(kept), 1000)) and 5 < len(kept) < 20
    log.append("huge", size=sys.maxsize)
    assert list(log) == ["huge"]

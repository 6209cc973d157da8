"""What reaches Redis, and when, is what was recorded; on the embedded server and on a real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis
import requests

from ...std_daq import simulated_daq

DATA = Path(__file__).parents[2] / "data" / "std_daq"


@pytest.fixture(params=["embedded", "redis-server"])
def redis_url(request):
    return "" if request.param == "embedded" else request.getfixturevalue("redis_server").url


def statuses(entries) -> list[tuple]:
    """Collapse statuses to what does not depend on time: state, acquisition's state and message."""
    found = []
    for content in entries:
        acquisition = content["acquisition"]
        found.append((content["state"], acquisition["state"], acquisition["message"]))
    return found


def once(states):
    """Drop the middle of a row of equal states, keeping whether it was one or more."""
    kept = []
    for state in states:
        if kept[-2:] != [state, state]:
            kept.append(state)
    return kept


def test_status_stream_when_the_first_images_come_then_old_ones_are_replayed_and_all_doubled(
    redis_url, tmp_path, wait_for
):
    recorded = [
        json.loads(line) for line in (DATA / "rest-flask-2023-05/s02_async_complete.redis.jsonl").open()
    ]
    wanted = statuses(json.loads(e["fields"]["json"]) for e in recorded if e.get("key") == "daq:status")
    with simulated_daq(running=False, redis_url=redis_url, speed=4.0) as server:
        requests.post(server.url + "/writer/stop", timeout=60)
        with redis.Redis.from_url(server.redis_url) as client:
            first = wait_for(lambda: client.xrevrange("daq:status", count=1), "status of the stop")[0][0]
            body = {"output_file": str(tmp_path / "x.h5"), "n_images": 20, "run_id": 7}
            requests.post(server.url + "/writer/write_async", json=body, timeout=60)
            server.service.source.burst(25, rate=40.0)
            wait_for(lambda: server.service.status()["state"] == "READY", "end")
            wait_for(lambda: client.xlen("daq:log") == 1, "log entry")
            entries = client.xrange("daq:status", f"({first.decode()}", "+")
            assert all(set(fields) == {b"json"} for _, fields in entries)
            got = statuses(json.loads(fields[b"json"]) for _, fields in entries)
            assert once(got) == once(wanted)
            (log,) = client.xrange("daq:log")
            assert json.loads(log[1][b"json"])["stats"]["n_write_completed"] == 20
            stats = wait_for(lambda: client.xrevrange("daq:stat", count=1), "stats")
            assert set(json.loads(stats[0][1][b"json"])) == {"detector", "writer"}


def test_streams_when_the_daq_starts_then_the_config_is_pushed_once_and_nothing_is_trimmed(redis_server):
    for _ in range(2):
        with simulated_daq(redis_url=redis_server.url), redis.Redis.from_url(redis_server.url) as client:
            assert client.xlen("daq:config") == 1


def test_idle_when_nothing_is_written_then_the_status_stream_is_silent(daq, wait_for):
    with redis.Redis.from_url(daq.redis_url) as client:

        def after_a_while():
            before = client.xlen("daq:stat")
            wait_for(lambda: client.xlen("daq:stat") > before + 3, "a while")
            return client.xlen("daq:status")

        assert after_a_while() == after_a_while()  # what was under way has come in the first

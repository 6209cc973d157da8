"""The follower of the DAQ's streams, on the embedded Redis and on a real one."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time

import pytest
import redis

from sfdaq_ophyd.clients import StdDaqRedis
from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.sim.std_daq.embedded_redis import EmbeddedRedis

from ..sim.std_daq.conftest import redis_server  # noqa: F401


@pytest.fixture(params=["embedded", "redis-server"])
def server(request):
    if request.param == "redis-server":
        yield request.getfixturevalue("redis_server")
        return
    embedded = EmbeddedRedis()
    embedded.start()
    yield embedded
    embedded.stop()


def status(run_id, state="WRITING", start=1.0, stop=None, n=0):
    info = {"n_images": 5, "output_file": "/x.h5", "run_id": run_id}
    stats = {"n_write_completed": n, "n_write_requested": n, "start_time": start, "stop_time": stop}
    acquisition = {"state": "ACQUIRING_IMAGES", "message": "", "info": info, "stats": stats}
    return {"state": state, "acquisition": acquisition}


def add(server, key, content):
    with redis.Redis.from_url(server.url) as client:
        return client.xadd(key, content if "json" in content else {"json": json.dumps(content)})


@contextlib.contextmanager
def following(server, stream="status", **options):
    """Follow a stream; yield the follower, and a queue of the contents of its messages."""
    contents = queue.SimpleQueue()
    with StdDaqRedis(server.url, stream, block=0.1, **options) as follower:
        follower.subscribe(stream, lambda message: contents.put(message.content))
        assert follower.wait_connected(60)
        yield follower, contents


def n_written(content):
    return content["acquisition"]["stats"]["n_write_completed"]


def test_follow_when_entries_come_then_they_are_delivered_in_order_from_the_newest_on(server):
    add(server, "daq:status", status(1, n=99))
    with following(server) as (_, contents):
        for n in range(5):
            add(server, "daq:status", status(1, n=n))
        assert [n_written(contents.get(timeout=60)) for _ in range(5)] == [0, 1, 2, 3, 4]


def test_follow_when_entries_are_doubled_or_replayed_then_each_comes_once(server):
    with following(server) as (follower, contents):
        for content in (
            status(1, start=10.0),
            status(1, start=10.0),
            status(0, "READY", start=5.0, stop=6.0),
            status(1, start=10.0, n=1),
            status(1, start=10.0, n=1),
            status(1, "READY", start=10.0, stop=11.0, n=5),
        ):
            add(server, "daq:status", content)
        states = [contents.get(timeout=60)["state"] for _ in range(3)]
        assert states == ["WRITING", "WRITING", "READY"]
        assert (follower.counts["doubled"], follower.counts["replayed"]) == (2, 1)


def test_follow_when_entries_are_no_json_then_they_are_counted_and_left_out(server):
    with following(server) as (follower, contents):
        with redis.Redis.from_url(server.url) as client:
            for fields in (
                {"json": "{"},
                {"json": "[]"},
                {"other": "x"},
                {"json": b"\xff"},
                {"json": "9" * 2**21},
            ):
                client.xadd("daq:status", fields)
        add(server, "daq:status", status(1))
        assert contents.get(timeout=60) == status(1)
        assert follower.counts["invalid"] == 5


HOSTILE = {
    "deep": b'{"a":' * 100_000,
    "deep list": b"[" * 100_000,
    "number": json.dumps(status(9)).encode().replace(b"1.0", b"1" + b"0" * 5000),
    "text for a number": json.dumps(status(9, start="x", stop=[])).encode(),
    "a time to come": json.dumps(status(9, start=1e300)).encode(),
    "not a number": json.dumps(status(9, start=float("nan"))).encode(),
    "surrogates": json.dumps(status(9, state="\ud800")).encode(),
    "odd fields": None,
}


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("what", HOSTILE)
def test_follow_when_an_entry_is_hostile_then_the_next_one_is_delivered(server, what):
    """`redis-deep-entry`: one entry nested 100 000 deep ended the follower's thread for good."""
    with following(server) as (_, contents):
        with redis.Redis.from_url(server.url) as client:
            client.xadd("daq:status", {"json": HOSTILE[what]} if HOSTILE[what] else {b"\xff": b"\xfe"})
        add(server, "daq:status", status(1, start=5.0, n=3))
        while n_written(contents.get(timeout=60)) != 3:
            pass


def test_state_when_redis_is_away_or_talks_nonsense_then_it_says_since_when_and_goes_on(wait_for):
    """A peer that is no Redis at all, and then one."""
    nonsense = socket.create_server(("127.0.0.1", 0))
    port = nonsense.getsockname()[1]

    def talk():
        while True:
            try:
                connection, _ = nonsense.accept()
            except OSError:
                return
            with connection:
                connection.recv(1000)
                connection.sendall(b"*1\r\n" * 5000)

    threading.Thread(target=talk, daemon=True).start()
    begun = time.time()
    with StdDaqRedis(f"redis://:s3cret@127.0.0.1:{port}", "status", block=0.1, timeout=1.0) as follower:
        wait_for(lambda: "not started" not in follower.state, "the first failure")
        contents = queue.SimpleQueue()
        follower.subscribe("status", contents.put)
        assert follower.state.startswith("hears nothing since ") and begun - 1 <= follower.silent_since
        assert "s3cret" not in follower.state
        nonsense.shutdown(socket.SHUT_RDWR)
        nonsense.close()
        embedded = EmbeddedRedis(port)
        embedded.start()
        try:
            assert follower.wait_connected(60)
            wait_for(lambda: follower.silent_since is None, "news")
            assert follower.state == "listening"
            add(embedded, "daq:status", status(1))
            assert contents.get(timeout=60)
        finally:
            embedded.stop()


@pytest.mark.parametrize("empty", [False, True])
def test_follow_when_redis_restarts_then_it_goes_on(server, wait_for, empty):
    add(server, "daq:status", status(1, start=1.0))
    with following(server, timeout=1.0) as (follower, contents):
        server.stop(empty=empty)
        wait_for(lambda: not follower._hears.is_set(), "loss of the connection")
        server.start()
        assert follower.wait_connected(60)
        add(server, "daq:status", status(2, start=2.0))
        assert contents.get(timeout=60)["acquisition"]["info"]["run_id"] == 2


def test_state_when_it_was_closed_then_it_hears_nothing(server):
    with following(server) as (follower, contents):
        add(server, "daq:status", status(1))
        contents.get(timeout=60)
    assert follower.state.startswith("hears nothing since ") and follower.state.endswith("closed")
    assert not follower.wait_connected(0)


def test_close_when_nothing_answers_then_it_is_quick_and_nothing_is_left(wait_for):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        follower = StdDaqRedis(f"redis://127.0.0.1:{deaf.getsockname()[1]}", block=0.1, timeout=0.5).start()
        assert not follower.wait_connected(0.05)
        follower.close()
        follower.close()
    wait_for(
        lambda: not [t for t in threading.enumerate() if t.name.startswith("follow ")], "end of the thread"
    )


@pytest.mark.parametrize("arguments", [("nonsense",), ("redis://x", ["nosuch"])])
def test_follower_when_an_argument_is_wrong_then_it_is_named(arguments):
    with pytest.raises(RequestError):
        StdDaqRedis(*arguments)

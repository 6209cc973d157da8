"""Client of the standard DAQ with control by websocket."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import numpy as np
import pytest
import websockets.sync.client
from websockets.sync.server import serve

from sfdaq_ophyd.clients import (
    StdDaqBadReply,
    StdDaqRefused,
    StdDaqRequestError,
    StdDaqTimeout,
    StdDaqUnknownOutcome,
    StdDaqUnreachable,
    StdDaqWriterSocket,
    std_daq_socket,
)
from sfdaq_ophyd.limits import Limit, counted_time
from sfdaq_ophyd.wire.std_daq_socket import PushedState, start_command

from ..std_daq import simulated_websocket_daq


@pytest.fixture(scope="module")
def daq():
    with simulated_websocket_daq() as server:
        yield server


@pytest.fixture
def client(daq):
    client = StdDaqWriterSocket(daq.ws_url, daq.url, restart_time=0.2)
    yield client
    client.stop()
    client.close()
    client.close()


@contextlib.contextmanager
def pushing(*messages, then="wait", port=0):
    """A driver that says this to everybody, then waits, closes or dies; yield its address.

    An event among the messages is waited for.
    """
    end = threading.Event()

    def talk(connection):
        for message in messages:
            if isinstance(message, threading.Event):
                message.wait(120)
            else:
                connection.send(message)
        if then == "wait":
            end.wait(120)
        elif then == "die":
            connection.recv()
            connection.socket.close()

    with serve(talk, "127.0.0.1", port, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            end.set()
            server.shutdown()
            thread.join()


IDLE = json.dumps({"status": "idle"})


@pytest.mark.parametrize(
    ("url", "config_url", "expected"),
    [
        ("ws://h:8080", None, ("ws://h:8080", "http://h:5000")),
        ("ws://h", None, ("ws://h:8080", "http://h:5000")),
        ("ws://[::1]:9/x", "http://g:7", ("ws://[::1]:9/x", "http://g:7")),
        ("http://h:5000", None, ("ws://h:8080", "http://h:5000")),
        ("https://h:5000/daq/", None, ("wss://h:8080", "https://h:5000/daq")),
    ],
)
def test_addresses_when_one_is_given_then_the_other_is_at_its_usual_port(url, config_url, expected):
    client = StdDaqWriterSocket(url, config_url)
    assert (client.url, client.config_url) == expected


@pytest.mark.parametrize(
    "url", ["", "ftp://h", 5, "ws://", "ws://h:x", None, "ws://user:secret@h", "user:secret@h:8080"]
)
def test_addresses_when_they_are_none_then_they_are_refused_and_no_password_is_shown(url):
    with pytest.raises(StdDaqRequestError, match="url") as info:
        StdDaqWriterSocket(url)
    assert "secret" not in str(info.value)


def test_status_when_nobody_answers_then_it_is_unreachable():
    with pytest.raises(StdDaqUnreachable, match="control of the standard DAQ"):
        StdDaqWriterSocket("ws://127.0.0.1:9").status()


def test_status_when_something_else_answers_then_it_is_named(daq):
    with pytest.raises(StdDaqBadReply, match="is not the control of a standard DAQ"):
        StdDaqWriterSocket(daq.url.replace("http", "ws")).status()


def test_statuses_when_two_commands_are_rejected_alike_then_each_has_its_answer(monkeypatch, wait_for):
    monkeypatch.setattr(std_daq_socket, "SILENT", 1e9)
    rejected = json.dumps({"status": "rejected", "reason": "driver is busy!"})
    with pushing(IDLE, IDLE, rejected, rejected) as url:
        with contextlib.closing(StdDaqWriterSocket(url)) as client:
            pushes = client.connect()
            wait_for(lambda: pushes.next_number() == 3, "both answers")
            assert [status.state for status in pushes.since(0)[0]] == ["idle", "rejected", "rejected"]


def test_status_when_the_peer_closes_at_once_then_it_is_no_daq():
    with pushing(then="close") as url, pytest.raises(StdDaqBadReply, match="is no standard DAQ"):
        StdDaqWriterSocket(url).status()


def test_status_when_only_nonsense_is_pushed_then_it_is_passed_over(caplog, monkeypatch):
    class Stepped(Limit):
        """Passes once all of it came."""

        @property
        def left(self):
            return 0.0 if caplog.text.count("passed over") == 4 else super().left

    nonsense = ("x", "[]", '{"status": "nosuch"}', '{"status": "recording", "count": -1}', "x" * 70_000)
    with (
        pushing(*nonsense[:-1]) as url,
        pytest.raises(StdDaqTimeout, match="first status.*count: expected an unsigned integer, got -1"),
        monkeypatch.context() as patch,
    ):
        patch.setattr(std_daq_socket, "Limit", Stepped)
        StdDaqWriterSocket(url, timeout=60).status()
    assert caplog.text.count("passed over") == 4
    with pushing(nonsense[-1]) as url, pytest.raises(StdDaqBadReply, match="no standard DAQ"):
        StdDaqWriterSocket(url, timeout=60).status()


def test_status_when_the_driver_falls_silent_then_a_new_connection_is_made(monkeypatch):
    passed = [0.0]
    monkeypatch.setattr(std_daq_socket, "SILENT", 60.0)
    monkeypatch.setattr(std_daq_socket, "counted_time", lambda: counted_time() + passed[0])
    with pushing(IDLE) as url, contextlib.closing(StdDaqWriterSocket(url, timeout=60)) as client:
        first = client.connect()
        assert client.connect() is first
        passed[0] = 60.0
        assert "said nothing for 60 s" in first.lost
        assert client.connect() is not first and client.status().state is PushedState.IDLE


def test_connection_when_this_process_could_not_look_while_it_was_made_then_it_is_made_again(monkeypatch):
    asked, connect = [], websockets.sync.client.connect

    def late(*args, **kwargs):
        asked.append(args)
        if len(asked) == 1:
            threading.Event().wait(0.05)
            raise TimeoutError("late by the clock on the wall")
        return connect(*args, **kwargs)

    monkeypatch.setattr(websockets.sync.client, "connect", late)
    monkeypatch.setattr("sfdaq_ophyd.limits.counted_time", lambda: 0.0)
    with pushing(IDLE) as url, contextlib.closing(StdDaqWriterSocket(url)) as client:
        assert client.status().state is PushedState.IDLE
    assert len(asked) == 2


def test_connection_when_it_is_lost_and_refused_for_a_moment_then_it_is_had_again(monkeypatch, wait_for):
    """As when something between is restarted, or the driver."""
    monkeypatch.setattr(std_daq_socket, "AWAY_LIMIT", 60.0)
    with pushing(IDLE) as url:
        client = StdDaqWriterSocket(url)
        first, port = client.connect(), int(url.rpartition(":")[2])
    wait_for(lambda: first.lost, "the loss")
    tried, sleep, found = threading.Event(), time.sleep, []
    again = threading.Thread(target=lambda: found.append(client.connect()))

    def pause(seconds):
        if threading.current_thread() is again:
            tried.set()
        sleep(seconds)

    monkeypatch.setattr(std_daq_socket.time, "sleep", pause)
    again.start()
    assert tried.wait(120) and not found
    with pushing(IDLE, port=port), contextlib.closing(client):
        again.join(120)
        assert found and found[0] is not first and found[0] is client.connect()


def test_connection_when_it_stays_away_then_it_is_unreachable_and_not_waited_for_twice(monkeypatch, wait_for):
    monkeypatch.setattr(std_daq_socket, "AWAY_LIMIT", 0.1)
    with pushing(IDLE) as url:
        client = StdDaqWriterSocket(url)
        first = client.connect()
    wait_for(lambda: first.lost, "the loss")
    for _ in range(2):
        with pytest.raises(StdDaqUnreachable):
            client.connect()


@pytest.mark.parametrize("over", ["file_saved", "error"])
def test_settled_status_when_an_end_was_just_told_then_what_comes_after_it(over, monkeypatch):
    monkeypatch.setattr(std_daq_socket, "SETTLE_LIMIT", 60.0)
    gate = threading.Event()
    with pushing(json.dumps({"status": over}), gate, IDLE) as url:
        with contextlib.closing(StdDaqWriterSocket(url)) as client:
            assert client.status().is_over
            gate.set()
            assert client.settled_status().state is PushedState.IDLE


def test_command_when_the_driver_dies_of_it_then_its_outcome_is_unknown_or_told_by_the_loss(wait_for):
    with pushing(IDLE, then="die") as url, contextlib.closing(StdDaqWriterSocket(url)) as client:
        pushes = client.connect()
        with contextlib.suppress(StdDaqUnknownOutcome):
            client.send(start_command("/data", "x", 1))
        wait_for(lambda: pushes.lost, "the loss")


def test_command_when_the_connection_is_closed_under_it_then_its_outcome_is_unknown(daq, client, monkeypatch):
    pushes = client.connect()
    pushes._connection.close()
    monkeypatch.setattr(client, "connect", lambda: pushes)
    with pytest.raises(StdDaqUnknownOutcome, match="Watch the status"):
        client.send(start_command("/data", "x", 1))


def test_stop_when_nothing_is_recorded_then_nothing_is_sent(client, monkeypatch):
    sent = []
    monkeypatch.setattr(client, "send", sent.append)
    assert client.stop().is_idle and sent == []


@pytest.mark.parametrize(
    ("after", "found"),
    [
        ((("saving_file", 7), ("file_saved", None), ("idle", None), ("recording", 8)), "file_saved"),
        ((("saving_file", 7), ("recording", 8)), "recording"),  # what is shorter than a wake-up is skipped
        ((("recording", 0),), "recording"),
    ],
)
def test_stop_when_somebody_else_starts_right_after_the_end_then_theirs_is_not_stopped(
    after, found, monkeypatch, wait_for
):
    monkeypatch.setattr(std_daq_socket, "STOP_TIMEOUT", 2.5)
    monkeypatch.setattr(std_daq_socket, "SILENT", 1e9)
    stops, end = [], threading.Event()

    def talk(connection):
        connection.send(json.dumps({"status": "recording", "count": 7}))
        for text in connection:
            stops.append(text)
            for state, count in after:
                connection.send(json.dumps({"status": state, "count": count}))
        end.set()

    def send_and_wait(command):
        number, pushes = send(command), client.connect()
        wait_for(lambda: pushes.next_number() > len(after), "all of it", 120)
        return number

    with serve(talk, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = StdDaqWriterSocket(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        with contextlib.closing(client):
            send = client.send
            monkeypatch.setattr(client, "send", send_and_wait)  # all of it is there at the next look
            assert client.stop().state == found
        assert end.wait(120) and len(stops) == 1
        server.shutdown()
        thread.join()


def test_acquisition_when_it_is_started_and_stopped_then_its_states_follow_each_other(
    daq, client, tmp_path, wait_for
):
    number = client.send(start_command(str(tmp_path), "x_", 10_000))
    wait_for(lambda: client.status().count, "images")
    client.stop()
    statuses, _ = client.connect().since(number)
    states = [str(status.state) for status in statuses]
    order = ["creating_file", "waiting_for_first_image", "recording", "stop", "saving_file", "file_saved"]
    assert [state for state in order if state in states] == [s for s in states if s != "idle"]
    assert {"recording", "saving_file"} <= set(states)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x_0.h5", "x_1.h5", "x_Meta.h5"]


def test_config_when_some_keys_are_changed_then_the_whole_is_sent_and_what_is_equal_is_not(daq, client):
    before = client.get_config()
    assert client.set_config({"bit_depth": before["bit_depth"]}) == before
    assert client.set_config({"start_udp_port": 2345}) == {**before, "start_udp_port": 2345} == daq.config
    client.set_config(before)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([1], "a dictionary"),
        ({"nosuch": 1}, "nosuch"),
        ({"detector_type": "eiger"}, "cannot change it"),
        ({"bit_depth": 13}, "13"),
    ],
)
def test_config_when_a_change_is_wrong_then_nothing_is_sent(daq, client, changes, expected):
    before = daq.config
    with pytest.raises(StdDaqRequestError, match=expected):
        client.set_config(changes)
    assert daq.config == before


def test_config_when_an_acquisition_runs_then_it_is_not_changed(daq, client, tmp_path, wait_for):
    client.send(start_command(str(tmp_path), "x_", 10_000))
    wait_for(lambda: not client.status().is_idle, "the start")
    with pytest.raises(StdDaqRequestError, match="an idle DAQ"):
        client.set_config({"start_udp_port": 2345})


def test_config_when_the_second_server_missed_it_then_the_error_says_that_it_is_changed(
    daq, client, wait_for
):
    before, pushes = client.get_config(), client.connect()
    daq.fail_next("secondary_down")
    with pytest.raises(StdDaqRefused, match="changed all the same, not on all servers"):
        client.set_config({"start_udp_port": 2346})
    wait_for(lambda: pushes.lost, "the end of the services")
    wait_for(lambda: daq.alive()["driver"], "the end of the restart")
    client.set_config(before)


def test_config_when_the_file_is_missing_then_the_service_is_quoted(daq, client):
    daq.fail_next("config_missing")
    with pytest.raises(StdDaqRefused, match="Configuration file not found"):
        client.config()


def test_config_when_the_reply_is_lost_then_what_is_read_back_is_not_taken_for_all_servers(
    daq, client, wait_for
):
    """The first server stores a change before it tells the second, which may be what hangs."""
    before, pushes = client.get_config(), client.connect()
    daq.fail_next("lost_reply", path="/api/config/set")
    with pytest.raises(StdDaqUnknownOutcome, match="of the others nobody knows: send it again"):
        client.set_config({"start_udp_port": 2347})
    assert client.get_config() == {**before, "start_udp_port": 2347}
    wait_for(lambda: pushes.lost, "the end of the services")
    wait_for(lambda: daq.alive()["driver"], "the end of the restart")
    client.set_config(before)


def test_config_when_a_number_equal_to_the_stored_one_is_of_numpy_then_the_stored_one_is_sent(
    daq, client, monkeypatch
):
    before, sent = client.get_config(), []
    monkeypatch.setattr(client, "_send_config", lambda body: sent.append(json.dumps(body)) or body)
    given = {"bit_depth": np.int64(before["bit_depth"]), "start_udp_port": 2348}
    client.set_config(given, wait=False)
    assert [json.loads(body) for body in sent] == [{**before, "start_udp_port": 2348}]

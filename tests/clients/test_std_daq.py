"""The standard DAQ's client against the simulated service: errors, lost replies, configuration."""

from __future__ import annotations

import contextlib
import json
import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import requests

from sfdaq_ophyd import clients
from sfdaq_ophyd.clients import StdDaqClient, std_daq, std_daq_service
from sfdaq_ophyd.errors import SfdaqError, UnknownOutcome, WireError
from sfdaq_ophyd.wire.std_daq import WriterState

from ..http_peer import reply_with, serving
from ..std_daq import simulated_daq


@pytest.fixture(scope="module", params=["flask", "fastapi"])
def daq(request):
    with simulated_daq(dialect=request.param) as server:
        yield server


@pytest.fixture
def writer_back(daq, wait_for):
    """Wait until the writer has the newest configuration: on a busy machine a restart takes longer."""
    return lambda: wait_for(lambda: daq.service.settled, "the writer process")


@pytest.fixture
def client(daq, writer_back):
    client = StdDaqClient(daq.url, restart_time=1.5)
    writer_back()
    client.stop_writer()
    yield client
    client.close()


@pytest.fixture
def submodules(client, monkeypatch):
    """Content of submodule_info that the service tells to be stored."""
    stored = {**client.get_config(), "module_positions": {}, "submodule_info": {"a": 1}}
    monkeypatch.setattr(client, "get_config", lambda: stored)
    return stored["submodule_info"]


def body(tmp_path, **more):
    return {"output_file": str(tmp_path / "x.h5"), "n_images": 5, **more}


@pytest.fixture
def answering():
    """A server that gives one fixed answer, and the list of the paths it was asked for."""
    with contextlib.ExitStack() as servers:

        def serve(text: bytes):
            paths = []

            def answer(handler):
                paths.append(handler.path)
                reply_with(200, text, "application/json")(handler)

            return paths, servers.enter_context(serving(answer))

        yield serve


def test_dialect_when_asked_then_it_is_found_without_side_effects(daq, client):
    before = client.get_status()
    assert client.dialect == daq.settings.dialect
    assert client.get_status() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"openapi": "3.1.0", "paths": {}}', "not a standard DAQ"),
        (b"<html>", "not a standard DAQ"),
    ],
)
def test_dialect_when_something_else_answers_then_it_is_named(answering, text, words):
    _, url = answering(text)
    with pytest.raises(WireError, match=words):
        StdDaqClient(url).dialect  # noqa: B018


@pytest.mark.parametrize(
    "text",
    [
        b'{"openapi": "3.1.0", "paths": {"/api/config/get": {}}}',
        b'{"detector_name": "x", "bit_depth": 16}',
    ],
)
def test_dialect_when_the_configuration_of_a_websocket_daq_answers_then_it_is_known_by_reading_alone(
    answering, text
):
    paths, url = answering(text)
    assert StdDaqClient(url).dialect == "websocket"
    assert set(paths) <= {"/openapi.json", "/api/config/get?user=sfdaq"}


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"nonsense", b'{"status": 5}'])
def test_reply_when_it_is_no_envelope_then_an_error_of_ours_comes(answering, text):
    _, url = answering(text)
    with pytest.raises(SfdaqError):
        StdDaqClient(url).get_status()


@pytest.mark.parametrize(
    "wrong",
    [
        {"output_file": "rel.h5"},
        {"n_images": 0},
        {"run_id": -1},
        {"run_id": "abc"},
        {"output_file": "/tmp/no-such-folder/x.h5"},
    ],
)
def test_request_when_it_is_wrong_then_nothing_is_sent(answering, tmp_path, wrong):
    paths, url = answering(b"{}")
    with pytest.raises(clients.StdDaqRequestError) as caught:
        StdDaqClient(url).start_writer_async(body(tmp_path, **wrong))
    assert paths == []
    assert isinstance(caught.value, clients.StdDaqAdminException | RuntimeError | ValueError)


def test_request_when_it_is_for_another_machine_then_its_folder_is_not_judged(answering, tmp_path):
    paths, url = answering(b'{"status": "ok", "writer": {}}')
    StdDaqClient(url).start_writer_async({"output_file": "/sls/no/such/x.h5", "n_images": 1})
    StdDaqClient(url, shared_folders=False).start_writer_async(
        {"output_file": "/tmp/no-such-folder/x.h5", "n_images": 1}
    )
    assert paths == ["/writer/write_async"] * 2


def test_request_when_creation_will_be_slow_then_it_warns(answering, tmp_path):
    _, url = answering(b'{"status": "ok", "writer": {}}')
    with pytest.warns(clients.SlowCreationWarning, match="Split the run"):
        StdDaqClient(url).start_writer_async(body(tmp_path, n_images=30_000))


def test_refusal_when_the_service_says_no_then_its_words_are_there(daq, client, tmp_path):
    client.start_writer_async(body(tmp_path, n_images=1000))
    with pytest.raises(clients.StdDaqRefused, match="Cannot start new acquisition") as caught:
        client.start_writer_async(body(tmp_path))
    assert isinstance(caught.value, clients.StdDaqAdminException) and "\n" not in str(caught.value)
    client.stop_writer()


@pytest.mark.parametrize("daq", ["fastapi"], indirect=True)
def test_validation_when_the_service_finds_mistakes_then_the_detail_is_there(daq, client):
    with pytest.raises(clients.StdDaqInvalid, match="body.n_images: Input should be") as caught:
        client._post_start("/writer/write_async", {"output_file": "/tmp/x.h5", "n_images": "abc"}, hint="")
    assert caught.value.detail[0]["loc"] == ["body", "n_images"]
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("loc", [None, 5, {}, "body", [], ["body", None]])
def test_validation_when_it_does_not_say_where_then_its_words(loc):
    body = json.dumps({"detail": [{"loc": loc, "msg": "no good"}]}).encode()
    with serving(reply_with(422, body)) as url, pytest.raises(clients.StdDaqInvalid, match="no good"):
        StdDaqClient(url)._post_start("/writer/write_async", {}, hint="")


def test_transport_when_nothing_listens_then_it_is_a_connection_error_of_requests():
    with pytest.raises(requests.exceptions.ConnectionError) as caught:
        StdDaqClient("http://127.0.0.1:9").get_status()
    assert isinstance(caught.value, clients.StdDaqUnreachable | ConnectionError)


def test_get_when_replies_are_lost_then_it_is_repeated(daq, client):
    daq.fail_next("lost_reply", path="/writer/status")
    assert client.status().state is WriterState.READY


def test_start_when_the_reply_is_lost_then_the_status_tells_that_it_worked(daq, client, tmp_path):
    daq.fail_next("lost_reply", path="/writer/write_async")
    status = client.start_writer_async(body(tmp_path, run_id=77, n_images=1000))
    assert status["state"] == "WRITING" and status["acquisition"]["info"]["run_id"] == 77


def test_start_when_the_reply_is_lost_and_it_failed_then_the_outcome_is_named(
    daq, client, tmp_path, monkeypatch
):
    monkeypatch.setattr(std_daq, "START_TIMEOUT", 1.0)
    client.start_writer_sync(body(tmp_path))
    daq.fail_next("creation_error")
    daq.fail_next("lost_reply", path="/writer/write_async")
    with pytest.raises(clients.StdDaqUnknownOutcome, match="it did not start. It may be sent again"):
        client.start_writer_async(body(tmp_path, run_id=78))


def test_stop_when_the_reply_is_lost_then_it_is_stopped_once(daq, client, tmp_path, wait_for):
    client.start_writer_async(body(tmp_path, n_images=1000, run_id=79))
    daq.fail_next("lost_reply", path="/writer/stop")
    assert client.stop().state is WriterState.READY
    wait_for(lambda: client.logs(1)[0].acquisition.run_id == 79, "log entry")
    assert [one.acquisition.run_id for one in client.logs(1000)].count(79) == 1


def test_call_when_the_service_hangs_then_it_ends_in_time(daq, wait_for):
    daq.fail_next("hang", seconds=600, path="/daq/stats")  # or until the server is closed
    client = StdDaqClient(daq.url, timeout=2.0)
    with pytest.raises(clients.StdDaqTimeout, match="GET /daq/stats: not done after 2 s"):
        client.get_stats()
    wait_for(lambda: "hang" not in daq._faults.armed, "the call that hangs")
    client = StdDaqClient(daq.url, timeout=60)
    assert client.get_stats() is not None


def test_connection_when_the_service_closes_it_after_an_error_then_the_next_call_works(daq, client, tmp_path):
    for _ in range(3):
        with pytest.raises(clients.StdDaqRefused):
            client._post_start("/writer/write_async", {"n_images": 5, "output_file": "rel.h5"}, hint="")
        assert client.status().state is WriterState.READY


def test_views_when_both_dialects_are_asked_then_they_are_alike(daq, client, tmp_path, wait_for):
    assert client.start_writer_sync(body(tmp_path, run_id=5))["acquisition"]["message"] == "Completed."
    wait_for(lambda: [one.acquisition.run_id for one in client.logs(1)] == [5], "log entry")
    (entry,) = client.logs(1)
    assert entry.acquisition.n_completed == 5
    assert entry.acquisition == client.status().acquisition
    assert client.config().dtype == "uint16" and client.config().config_id
    assert wait_for(client.stats, "stats").detector_images_per_second >= 0
    assert client.deployment().status in ("SUCCESS", "RUNNING", "UNKNOWN")


def test_set_config_when_one_key_changes_then_the_rest_stays_and_the_writer_is_back(
    client, tmp_path, writer_back
):
    before = client.config()
    stored = client.set_config({"bit_depth": "32", "module_positions": {}})
    assert stored["bit_depth"] == 32 and stored["image_pixel_width"] == before.image_pixel_width
    assert client.deployment().status == "SUCCESS"
    writer_back()
    status = client.start_writer_sync(body(tmp_path))
    assert status["acquisition"]["message"] == "Completed."
    client.set_config({"bit_depth": 16})


def test_set_config_when_a_server_reports_an_error_then_it_is_named(daq, client):
    daq.fail_next("server_error")
    with pytest.raises(clients.StdDaqRefused, match="Deployment failed"):
        client.set_config({"bit_depth": 16, "module_positions": {}})
    client.set_config({"bit_depth": 16})


def test_set_config_when_positions_cannot_be_stored_then_nothing_is_sent(daq, client):
    before = client.config()
    if daq.settings.dialect == "flask":
        client.set_config({"module_positions": {"0": [0, 15, 15, 0]}})
        assert client.config().module_positions == {"0": [0, 15, 15, 0]}
    else:
        with pytest.raises(clients.StdDaqRequestError, match="can store no module positions"):
            client.set_config({"module_positions": {"0": [0, 15, 15, 0]}})
        assert client.config() == before


def test_set_config_when_the_service_would_lose_submodule_info_then_that_is_said_or_refused(
    daq, client, caplog, writer_back
):
    client.set_config({"bit_depth": 16, "module_positions": {}})
    writer_back()
    lost = "loses the submodule_info that is stored: {'a': 1}"
    daq.service.set_config({**client.get_config(), "submodule_info": {"a": 1}})
    before = client.config()
    if daq.settings.dialect == "flask":
        client.set_config({"start_udp_port": 2345}, wait=False)
    else:
        with pytest.raises(clients.StdDaqRequestError, match="submodule_info.*would lose it"):
            client.set_config({"start_udp_port": 2345}, wait=False)
        given_back = {**client.get_config(), "start_udp_port": 2345}
        for given in (given_back, {"start_udp_port": 2345, "submodule_info": {"b": 2}}):
            with pytest.raises(clients.StdDaqRequestError, match="submodule_info.*would lose it"):
                client.set_config(given, wait=False)
        assert client.config() == before and "loses" not in caplog.text
        client.set_config({"start_udp_port": 2345, "submodule_info": {}}, wait=False)
    assert caplog.text.count(lost) == 1
    assert client.get_config()["start_udp_port"] == 2345 and not client.get_config().get("submodule_info")
    client.set_config({"start_udp_port": before.start_udp_port})
    assert caplog.text.count("submodule_info") == 1


def test_set_config_when_the_service_does_not_take_submodule_info_then_that_is_said_or_refused(
    daq, client, caplog, writer_back
):
    client.set_config({"bit_depth": 16, "module_positions": {}, "submodule_info": {}})
    writer_back()
    before = client.config()
    if daq.settings.dialect == "flask":
        client.set_config({"submodule_info": {"a": 1}}, wait=False)
        assert caplog.text.count("loses the submodule_info that is given: {'a': 1}") == 1
        writer_back()
    else:
        with pytest.raises(clients.StdDaqRequestError, match="submodule_info.*would lose it"):
            client.set_config({"submodule_info": {"a": 1}}, wait=False)
        assert client.config() == before
    assert not client.get_config().get("submodule_info") and "is stored" not in caplog.text


def test_set_config_when_somebody_writes_then_it_is_refused(client, tmp_path, submodules, caplog):
    client.start_writer_async(body(tmp_path, n_images=1000))
    with pytest.raises(clients.StdDaqRequestError, match="not writing"):
        client.set_config({"bit_depth": 16, "module_positions": {}, "submodule_info": {}})
    assert "submodule_info" not in caplog.text, "nothing was sent, so nothing is lost"
    client.stop_writer()


def test_set_config_when_all_of_it_is_given_back_then_odd_values_stored_by_others_are_no_mistake(answering):
    stored = b'{"bit_depth": 12, "detector_name": "X", "extra": 5}'
    paths, url = answering(
        b'{"status": "ok", "writer": {"state": "READY", "acquisition": null}, "config": %b}' % stored
    )
    client = StdDaqClient(url, dialect="flask")
    given = client.get_config()
    assert client.set_config(given, wait=False) == given
    with pytest.raises(clients.StdDaqRequestError, match="bit_depth=13"):
        client.set_config({**given, "bit_depth": 13})
    with pytest.raises(clients.StdDaqRequestError, match="'other'"):
        client.set_config({"other": 5})


def test_set_config_when_a_value_is_wrong_then_it_is_named_even_where_nothing_listens():
    with pytest.raises(clients.StdDaqRequestError, match="bit_depth=7"):
        StdDaqClient("http://127.0.0.1:9").set_config({"bit_depth": 7})


def test_set_config_when_somebody_starts_after_the_restart_then_nothing_is_stopped(
    daq, client, tmp_path, monkeypatch, writer_back
):
    restarted = threading.Event()

    def restart(config):
        restart_writer(config)
        restarted.set()

    def wait_and_start(seconds):
        assert restarted.wait(120)
        writer_back()
        StdDaqClient(daq.url).start_writer_async(body(tmp_path, run_id=4, n_images=1000))

    client.set_config({"bit_depth": 16, "module_positions": {}})
    writer_back()
    restart_writer = daq.service._deployer._restart
    monkeypatch.setattr(daq.service._deployer, "_restart", restart)
    client._restart_time = 30.0
    monkeypatch.setattr(client, "_wait_for_deployment", lambda limit: None)
    monkeypatch.setattr(std_daq_service, "time", SimpleNamespace(sleep=wait_and_start))
    client.set_config({}, timeout=60)
    monkeypatch.undo()
    status = client.status()
    assert (status.state, status.acquisition.run_id) == (WriterState.WRITING, 4)
    client.stop_writer()
    writer_back()


def test_set_config_when_only_what_cannot_be_compared_is_refused_then_that_is_no_success(
    client, submodules, monkeypatch
):
    def refuse(body):
        raise clients.StdDaqRefused("POST /daq/config", url=client.url, said="no")

    monkeypatch.setattr(client, "_send_config", refuse)
    with pytest.raises(clients.StdDaqRefused, match="no"):
        client.set_config({"submodule_info": {}})


def test_set_config_when_nothing_differs_and_the_reply_is_lost_then_the_outcome_is_unknown(
    client, monkeypatch
):
    def lose(body):
        raise UnknownOutcome("POST /daq/config", url=client.url, reason="closed", hint="")

    monkeypatch.setattr(client, "_send_config", lose)
    with pytest.raises(clients.StdDaqUnknownOutcome, match="closed"):
        client.set_config({"bit_depth": client.get_config()["bit_depth"]}, wait=False)


def test_set_config_when_a_number_equal_to_the_stored_one_is_of_numpy_then_the_stored_one_is_sent(
    client, monkeypatch
):
    before, sent = client.get_config(), []
    monkeypatch.setattr(
        client, "_send_config", lambda body: sent.append(json.dumps(body)) or {**before, **body}
    )
    client.set_config({"bit_depth": np.int64(before["bit_depth"]), "start_udp_port": 2345}, wait=False)
    (body,) = map(json.loads, sent)
    assert (body["bit_depth"], body["start_udp_port"]) == (before["bit_depth"], 2345)


def test_set_config_when_positions_are_arrays_then_that_is_named(answering):
    _, url = answering(b'{"status": "ok", "config": {"module_positions": {"0": [0, 15, 15, 0]}}}')
    with pytest.raises(clients.StdDaqRequestError, match=r"module_positions\[0\].*expected 4 integers"):
        StdDaqClient(url, dialect="flask").set_config({"module_positions": {"0": np.array([0, 15, 15, 0])}})


@pytest.mark.parametrize("code", [502, 503, 504])
def test_get_when_a_gateway_says_that_the_service_is_away_then_it_is_unreachable(code):
    with serving(reply_with(code, b"Bad Gateway", "text/html")) as url:
        with pytest.raises(clients.StdDaqUnreachable, match=f"{code}: 'Bad Gateway'"):
            StdDaqClient(url).get_status()
        with pytest.raises(clients.StdDaqUnknownOutcome, match=f"{code}: 'Bad Gateway'.*Read the status"):
            StdDaqClient(url).stop_writer()


@pytest.mark.parametrize("text", [b"<html>", b"", b"[1]"])
def test_reply_when_it_is_not_json_then_it_is_caught_as_the_published_clients_error(answering, text):
    _, url = answering(text)
    with pytest.raises(requests.exceptions.JSONDecodeError) as caught:
        StdDaqClient(url).get_status()
    assert isinstance(caught.value, clients.StdDaqBadReply | WireError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)

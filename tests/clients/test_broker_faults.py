"""What BrokerClient does when the broker does not answer, or not as it should."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from types import SimpleNamespace

import pytest

from sfdaq_ophyd.clients import BrokerClient, find_retrieval
from sfdaq_ophyd.errors import (
    BrokerRefused,
    RunNumberMismatch,
    ServiceTimeout,
    ServiceUnreachable,
    UnknownOutcome,
    WireError,
)
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.broker import http as broker_http
from sfdaq_ophyd.wire.broker_operations import OPERATIONS
from sfdaq_ophyd.wire.broker_request import RetrieveRequest
from sfdaq_ophyd.wire.pulse_id import PulseRange

JF = "JF01T03V01"
SCRIPT = "def proc(meta, image, mask):\n    return {'total': 1.0}\n"
_numbers = itertools.count(30_000)

CALLS = {
    "get_allowed_detectors": lambda c, p: c.get_allowed_detectors(),
    "get_running_detectors": lambda c, p: c.get_running_detectors(),
    "power_on_detector": lambda c, p: c.power_on_detector("JF03T01V02"),
    "advance_run_number": lambda c, p: c.advance_run_number(p),
    "get_current_run_number": lambda c, p: c.get_current_run_number(p),
    "retrieve_from_buffers": lambda c, p: c.retrieve_from_buffers(
        RetrieveRequest(pgroup=p, pulses=PulseRange(1000, 1009), pvs=["A"])
    ),
    "take_pedestal": lambda c, p: c.take_pedestal(p, [JF]),
    "get_pvlist": lambda c, p: c.get_pvlist(),
    "set_pvlist": lambda c, p: c.set_pvlist(["A"]),
    "get_detector_settings": lambda c, p: c.get_detector_settings(JF),
    "set_detector_settings": lambda c, p: c.set_detector_settings(JF, {"exptime": 5e-6}),
    "get_detector_status": lambda c, p: c.get_detector_status(JF),
    "get_detector_temperatures": lambda c, p: c.get_detector_temperatures(JF),
    "get_detector_pings": lambda c, p: c.get_detector_pings(JF),
    "get_jfctrl_monitor": lambda c, p: c.get_jfctrl_monitor("JF07T32V02"),
    "get_jfstats": lambda c, p: c.get_jfstats(JF),
    "power_on_modules": lambda c, p: c.power_on_modules(JF, [0]),
    "power_off_modules": lambda c, p: c.power_off_modules(JF, [0]),
    "copy_user_files": lambda c, p: c.copy_user_files(p, 1, []),
    "get_dap_settings": lambda c, p: c.get_dap_settings(JF),
    "set_dap_settings": lambda c, p: c.set_dap_settings(JF, {"laser_on": True}),
    "upload_custom_dap_script": lambda c, p: c.upload_custom_dap_script("total", SCRIPT),
}
REPEATED = (  # the contract's retry table, section 15: reads and writes of the same content
    *(name for name in CALLS if name.startswith("get_")),
    "set_pvlist",
    "set_dap_settings",
    "copy_user_files",
    "power_on_modules",
    "power_off_modules",
)


@pytest.fixture(scope="module")
def facility():
    with Facility(only=["broker"], broker_delays=0.0) as facility:
        yield facility


@pytest.fixture
def broker(facility):
    yield facility.broker
    facility.broker.site.faults.clear()


@pytest.fixture
def client(broker):
    with BrokerClient(broker.url) as client:
        yield client


@pytest.fixture
def pgroup(broker):
    """A fresh pgroup with a run 1."""
    name = f"p{next(_numbers)}"
    (broker.make_pgroup(name) / "run0001").mkdir()
    return name


def test_calls_when_listed_then_all_endpoints_but_close():
    assert set(OPERATIONS) - set(CALLS) == {"close_pgroup_writing"}


@pytest.mark.parametrize("endpoint", CALLS)
def test_call_when_made_then_its_request_has_the_keys_that_the_table_demands(
    broker, client, pgroup, endpoint
):
    CALLS[endpoint](client, pgroup)
    needs, request = OPERATIONS[endpoint].needs.split(), broker.requests(endpoint)[-1].request
    assert needs == [key for key in needs if key in (request or {})]
    assert bool(needs) == bool(request)


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
@pytest.mark.parametrize("endpoint", CALLS)
def test_call_when_its_reply_is_lost_then_repeated_only_where_the_contract_allows(
    broker, client, pgroup, endpoint, fault
):
    before = len(broker.requests(endpoint))
    broker.fail_next(fault, endpoint=endpoint)
    if endpoint in REPEATED:
        CALLS[endpoint](client, pgroup)
        assert len(broker.requests(endpoint)) == before + 2
    else:
        with pytest.raises(UnknownOutcome) as unknown:
            CALLS[endpoint](client, pgroup)
        CALLS["get_pvlist"](client, pgroup), CALLS["get_detector_pings"](client, pgroup)  # served after it
        assert len(broker.requests(endpoint)) == before + 1
        assert OPERATIONS[endpoint].hint in str(unknown.value)


@pytest.mark.parametrize("endpoint", CALLS)
def test_call_when_html_comes_with_code_200_then_wire_error_or_unknown_outcome(
    broker, client, pgroup, endpoint
):
    broker.fail_next("garbage", endpoint=endpoint)
    with pytest.raises(WireError if endpoint in REPEATED else UnknownOutcome, match="Proxy: try later"):
        CALLS[endpoint](client, pgroup)


def test_call_when_server_says_500_then_refused_with_its_title(broker, client, pgroup):
    broker.fail_next("server_error", endpoint="advance_run_number")
    with pytest.raises(BrokerRefused, match="500 Internal Server Error") as refused:
        client.advance_run_number(pgroup)
    assert refused.value.code == 500


@pytest.fixture
def held_back(monkeypatch):
    """Have the broker take its time over requests to an endpoint, until the end of the context."""
    before = broker_http.before

    @contextlib.contextmanager
    def held_back(endpoint):
        go_on = threading.Event()

        def wait(site, name):
            before(site, name)
            assert name != endpoint or go_on.wait(600)

        with monkeypatch.context() as patch:
            patch.setattr(broker_http, "before", wait)
            try:
                yield
            finally:
                go_on.set()

    return held_back


def test_read_when_it_stays_slow_then_timeout_after_all_attempts(broker, pgroup, held_back):
    with held_back("get_current_run_number"), BrokerClient(broker.url, timeout=2.0) as client:
        with pytest.raises(ServiceTimeout, match="not done after 2 s"):
            client.get_current_run_number(pgroup)


def test_advance_when_client_gives_up_then_executed_all_the_same(broker, client, pgroup, wait_for, held_back):
    with held_back("advance_run_number"), BrokerClient(broker.url, timeout=2.0) as hasty:
        with pytest.raises(UnknownOutcome, match="gaps are harmless"):
            hasty.advance_run_number(pgroup)
    wait_for(lambda: client.get_current_run_number(pgroup) == 1, "the number nobody got")


@pytest.mark.parametrize("endpoint", ["advance_run_number", "get_pvlist"])
def test_call_when_server_is_down_then_unreachable_after_trying_again(pgroup, endpoint, closed_port):
    with BrokerClient(f"http://127.0.0.1:{closed_port}") as client:
        with pytest.raises(ServiceUnreachable, match="Connection refused"):
            CALLS[endpoint](client, pgroup)


def test_advance_when_server_is_just_restarting_then_tried_again_because_it_was_never_sent(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # refuses connections until it listens
        served = []

        def answer():
            connection, _ = listener.accept()
            with connection:
                received = b""
                while not received.endswith(b"}"):
                    received += connection.recv(65536)
                served.append(received)
                reply = b'{"status": "ok", "run_number": 8}'
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + reply)

        client = BrokerClient(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=answer)

        def pause(seconds):
            if thread.ident is None:
                listener.listen()
                thread.start()

        monkeypatch.setattr("sfdaq_ophyd.clients._http.time", SimpleNamespace(sleep=pause))
        assert client.advance_run_number("p12345") == 8
        thread.join()
    assert len(served) == 1


def request(facility, pgroup, **fields) -> RetrieveRequest:
    now = facility.clock.now()
    return RetrieveRequest(pgroup=pgroup, pulses=PulseRange(now - 9, now), pvs=["A:X"], **fields)


@pytest.mark.parametrize("run_number", [1, None])
def test_retrieve_when_reply_is_lost_after_execution_then_rebuilt_from_the_runs_meta(
    facility, broker, client, pgroup, run_number
):
    client.advance_run_number(pgroup)
    wanted = client.retrieve_from_buffers(request(facility, pgroup, run_number=run_number))
    broker.fail_next("drop_after", endpoint="retrieve_from_buffers")
    with BrokerClient(broker.url, sf_root=broker.root) as mounted:
        reply = mounted.retrieve_from_buffers(request(facility, pgroup, run_number=run_number))
    assert reply.recovered and not wanted.recovered
    assert reply.acquisition_number == (2 if run_number else 1)
    assert reply.unique_acquisition_number == 2
    assert reply.files == tuple(
        file.replace("acq0001", f"acq{reply.acquisition_number:04d}").replace(
            f"run{wanted.run_number:04d}", f"run{reply.run_number:04d}"
        )
        for file in wanted.files
    )
    assert (
        client.retrieve_from_buffers(request(facility, pgroup, run_number=1)).unique_acquisition_number == 3
    )


def test_retrieve_when_it_was_not_executed_then_unknown_and_never_repeated(facility, broker, client, pgroup):
    broker.fail_next("drop_before", endpoint="retrieve_from_buffers")
    with BrokerClient(broker.url, sf_root=broker.root, recover_timeout=0.05) as mounted:
        with pytest.raises(UnknownOutcome, match="client_request_id"):
            mounted.retrieve_from_buffers(request(facility, pgroup))
    assert client.get_current_run_number(pgroup) == 0


def test_retrieve_when_meta_is_there_but_data_were_not_requested_then_no_proof(
    facility, broker, client, pgroup
):
    client.advance_run_number(pgroup)
    broker.fail_next("message_broker_down")
    with pytest.raises(BrokerRefused):
        client.retrieve_from_buffers(
            request(facility, pgroup, run_number=1, extra={"client_request_id": "mine"})
        )
    assert find_retrieval(broker.root, pgroup, "mine", 1) is None


ODD_NUMBER = '{"client_request_id": "mine", "run_number": %s, "acquisition_number": 1}'


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"client_request_id": 5}', '{"client_request_id": "mine"}', '{"a":' * 5000),
        *(ODD_NUMBER % number for number in ("null", "1e400", '"x"', "[]")),
    ],
)
def test_find_when_meta_is_half_written_or_odd_then_passed_over(broker, pgroup, text):
    meta = broker.root / f"bernina/data/{pgroup}/raw/run0001/meta"
    meta.mkdir()
    (meta / "acq0001.json").write_text(text)
    assert find_retrieval(broker.root, pgroup, "mine") is None


def test_retrieve_when_message_broker_is_down_then_said_that_numbers_are_used(
    facility, broker, client, pgroup
):
    client.advance_run_number(pgroup)
    broker.fail_next("message_broker_down")
    with pytest.raises(BrokerRefused, match="AMQPConnectionError.*wait") as refused:
        client.retrieve_from_buffers(request(facility, pgroup, run_number=1))
    assert not refused.value.nothing_done
    assert (
        client.retrieve_from_buffers(request(facility, pgroup, run_number=1)).unique_acquisition_number == 2
    )


def test_retrieve_when_pgroup_was_closed_then_refused_and_nothing_burned(facility, broker, client, pgroup):
    client.advance_run_number(pgroup)
    broker.fail_next("close_pgroup", pgroup=pgroup)
    with pytest.raises(BrokerRefused, match="closed for writing") as refused:
        client.retrieve_from_buffers(request(facility, pgroup, run_number=1))
    assert refused.value.nothing_done
    assert (broker.root / f"bernina/data/{pgroup}/raw/run_info/LAST_RUN").read_text() == "1"


def test_retrieve_when_the_reply_is_for_another_run_then_mismatch_with_the_reply(
    facility, broker, client, pgroup
):
    client.advance_run_number(pgroup)
    broker.fail_next("wrong_run_number", endpoint="retrieve_from_buffers")
    with pytest.raises(RunNumberMismatch, match="asked for run 1.*for run 2") as mismatch:
        client.retrieve_from_buffers(request(facility, pgroup, run_number=1))
    assert mismatch.value.reply.files


def test_settings_when_trigger_cannot_be_stopped_then_nothing_changed(broker, client):
    broker.fail_next("trigger_stuck")
    with pytest.raises(BrokerRefused, match="TriggerError") as refused:
        client.set_detector_settings(JF, {"exptime": 9e-6})
    assert refused.value.nothing_done
    assert client.get_detector_settings(JF)["exptime"] == 5e-6


def test_settings_when_trigger_cannot_be_started_again_then_said_that_they_changed(broker, client):
    stop = broker.trigger.stop

    def stop_and_stick():
        stop()
        broker.trigger.stuck = 2

    broker.trigger.stop = stop_and_stick
    try:
        with pytest.raises(BrokerRefused, match="left stopped: check its PV") as refused:
            client.set_detector_settings(JF, {"exptime": 9e-6})
    finally:
        broker.trigger.stop = stop
    assert not refused.value.nothing_done
    client.set_detector_settings(JF, {"exptime": 5e-6})
    assert broker.trigger.value == 254


def test_settings_when_detector_is_not_configured_then_warned_that_the_trigger_is_off(broker, client):
    with pytest.raises(BrokerRefused, match="left stopped: check its PV, 254 is running") as refused:
        client.set_detector_settings("JF04T01V01", {"exptime": 9e-6})
    assert not refused.value.nothing_done
    assert broker.trigger.value == 255
    client.set_detector_settings(JF, {"exptime": 5e-6})
    assert broker.trigger.value == 254


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
def test_close_when_reply_is_lost_then_asked_again_and_already_closed_is_success(
    broker, client, pgroup, fault
):
    broker.fail_next(fault, endpoint="close_pgroup_writing")
    client.close_pgroup_writing(pgroup, confirm=pgroup)
    assert (broker.root / f"bernina/data/{pgroup}/raw/run_info/CLOSED").exists()


def test_close_when_reply_is_lost_and_nobody_can_be_asked_again_then_its_outcome_is_unknown(
    client, monkeypatch
):
    answers = iter(
        [UnknownOutcome("close_pgroup_writing", url="http://broker", reason="cut", hint=""), "no connection"]
    )

    def call(operation, body):
        if isinstance(answer := next(answers), Exception):
            raise answer
        raise ServiceUnreachable("sf-daq broker", url="http://broker", reason=answer)

    monkeypatch.setattr(client, "call", call)
    with pytest.raises(UnknownOutcome):
        client.close_pgroup_writing("p12345", confirm="p12345")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.get_pvlist(), WireError),
        (lambda client: client.advance_run_number("p12345"), UnknownOutcome),
    ],
)
def test_reply_when_endless_then_cut_off(call, error):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def babble():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
                try:
                    while True:
                        connection.sendall(b" " * 2**20)
                except OSError:
                    pass

        thread = threading.Thread(target=babble)
        thread.start()
        with BrokerClient(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            with pytest.raises(error, match="exceeds"):
                call(client)
        thread.join(60)
        assert not thread.is_alive()

"""The listener of status messages, with a stand-in for pika; and with RabbitMQ where it is installed."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from bluesky import RunEngine

from sfdaq_ophyd.clients import BrokerClient, StatusListener, broker_status
from sfdaq_ophyd.errors import RequestError, SfdaqError
from sfdaq_ophyd.plans import sf_count
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.broker import writers
from sfdaq_ophyd.wire.broker_request import RetrieveRequest
from sfdaq_ophyd.wire.broker_status import FileState
from sfdaq_ophyd.wire.pulse_id import PulseRange

from ..devices.broker_bench import DETECTOR, BrokerBench
from ..ports import free_ports, listens
from .amqp_publisher import AmqpPublisher

FILE = "/sf/bernina/data/p12345/raw/run0001/data/acq0001.PVDATA.h5"


class AmqpError(Exception):
    pass


class FakePika:
    """As much of pika as the listener uses; `said` holds messages, or an error to raise."""

    exceptions = SimpleNamespace(AMQPError=AmqpError)

    def __init__(self):
        self.said = queue.Queue()
        self.connections = 0

    def URLParameters(self, url):
        return SimpleNamespace(host="fake", port=0)

    def BlockingConnection(self, parameters):
        self.connections += 1
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def channel(self):
        return self

    def exchange_declare(self, exchange, exchange_type):
        assert (exchange, exchange_type) == ("status", "fanout")

    def queue_declare(self, name, exclusive):
        assert (name, exclusive) == ("", True)
        return SimpleNamespace(method=SimpleNamespace(queue="mine"))

    def queue_bind(self, queue, exchange):
        assert (queue, exchange) == ("mine", "status")

    def cancel(self):
        pass

    def consume(self, queue_name, auto_ack, inactivity_timeout):
        while True:
            try:
                said = self.said.get(timeout=0.01)
            except queue.Empty:
                yield None, None, None
                continue
            if isinstance(said, Exception):
                raise said
            action, body = said  # an action, or all headers
            headers = {"action": action} if isinstance(action, str) else action
            properties = SimpleNamespace(headers=headers, correlation_id="id")
            yield object(), properties, body


@pytest.fixture
def pika(monkeypatch):
    fake = FakePika()
    monkeypatch.setattr(broker_status, "_import_pika", lambda: fake)
    monkeypatch.setattr(broker_status, "RETRY", 0.01)
    return fake


BODY = json.dumps({"output_file": FILE}).encode()


def test_listener_when_messages_come_then_the_board_knows(pika, wait_for):
    with StatusListener("amqp://fake") as listener:
        assert listener.start(60)
        pika.said.put(("write_start", BODY))
        pika.said.put(("write_finished", BODY))
        wait_for(lambda: listener.board.state(FILE)[0] is FileState.FINISHED, "finished")
    assert not listener.connected


@pytest.mark.parametrize("bad", [("dance", BODY), ("write_start", b"{"), ("write_start", b" " * (5 * 2**20))])
def test_listener_when_a_message_is_bad_then_passed_over(pika, wait_for, bad):
    with StatusListener("amqp://fake") as listener:
        pika.said.put(bad)
        pika.said.put(("write_request", BODY))
        wait_for(lambda: listener.board.state(FILE)[0] is FileState.REQUESTED, "the good one")


@pytest.mark.parametrize("headers", [{"action": [1, 2]}, {"action": {}}, [], 5, {5: None}])
def test_listener_when_headers_are_hostile_then_passed_over(pika, wait_for, headers):
    with StatusListener("amqp://fake") as listener:
        pika.said.put((headers, BODY))
        pika.said.put(("write_request", BODY))
        wait_for(lambda: listener.board.state(FILE)[0] is FileState.REQUESTED, "the good one")
        assert pika.connections == 1


@pytest.mark.parametrize("error", [AmqpError("gone"), RecursionError("deep"), ValueError("odd"), KeyError(5)])
def test_listener_when_the_peer_breaks_the_library_then_it_goes_on_and_says_since_when(
    pika, wait_for, monkeypatch, error
):
    listener = StatusListener("amqp://me:s3cret@fake")
    assert listener.silent_since is not None and "not started" in listener.state
    with listener:
        assert listener.start(60)
        assert listener.silent_since is None and listener.state == "listening"
        with monkeypatch.context() as away:
            away.setattr(pika, "BlockingConnection", Mock(side_effect=error))
            pika.said.put(error)
            wait_for(lambda: pika.BlockingConnection.call_count > 2, "some attempts")
            since = listener.silent_since
            assert not listener.connected and type(error).__name__ in listener.state
        pika.said.put(("write_start", BODY))
        wait_for(lambda: listener.board.state(FILE)[0] is FileState.STARTED, "a message after it")
        assert since > 0 and listener.silent_since is None
    assert "closed" in listener.state and "s3cret" not in f"{listener.state} {listener.url}"


def test_listener_when_the_connection_is_lost_then_connects_again(pika, wait_for):
    with StatusListener("amqp://fake") as listener:
        assert listener.start(60)
        pika.said.put(AmqpError("gone"))
        pika.said.put(("write_start", BODY))
        wait_for(lambda: listener.board.state(FILE)[0] is FileState.STARTED, "a message after the loss")
        assert pika.connections == 2
        listener.close()


@pytest.mark.parametrize("url", [None, "", "sf-daq:5672", "http://sf-daq"])
def test_listener_when_address_is_wrong_then_refused(url):
    with pytest.raises(RequestError, match="amqp://host:5672"):
        StatusListener(url)


def test_listener_when_pika_is_missing_then_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pika", None)
    with pytest.raises(SfdaqError, match=r"sfdaq-ophyd\[rabbitmq\]"):
        StatusListener("amqp://127.0.0.1:1").start()


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory, wait_for):
    """The URL of a RabbitMQ of our own."""
    tmp_path = tmp_path_factory.mktemp("rabbitmq")
    server = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin:" + os.environ["PATH"])
    if server is None:
        pytest.skip("rabbitmq-server is not installed")
    port, distribution, mapper = map(str, free_ports(3))
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": port,
        "RABBITMQ_DIST_PORT": distribution,
        "RABBITMQ_NODENAME": f"test{port}@localhost",
        "RABBITMQ_MNESIA_BASE": str(tmp_path / "mnesia"),
        "RABBITMQ_LOG_BASE": str(tmp_path / "log"),
        "ERL_EPMD_PORT": mapper,
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    process = subprocess.Popen(
        [server],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    try:
        wait_for(lambda: listens(int(port)), "RabbitMQ", timeout=60, period=0.1)
        yield f"amqp://guest:guest@127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        subprocess.run(["epmd", "-kill"], env=environment, check=False, capture_output=True)


def test_listener_when_rabbitmq_is_real_then_files_are_followed_to_the_end(rabbitmq, wait_for):
    running = ["JF01T03V01", "JF03T01V02"]
    options = {"broker_delays": 0.0, "broker_running": running}
    with Facility(only=["broker"], **options) as facility, AmqpPublisher(rabbitmq, facility.broker):
        with StatusListener(rabbitmq) as listener, BrokerClient(facility.broker.url) as client:
            assert listener.start(60)
            facility.broker.fail_next("writer_fails", source="JF01T03V01", message="no such module")
            now = facility.clock.now()
            reply = client.retrieve_from_buffers(
                RetrieveRequest(
                    pgroup="p12345",
                    pulses=PulseRange(now - 3, now),
                    detectors={"JF03T01V02": {}, "JF01T03V01": {"adc_to_energy": True}},
                    pvs=["A:X"],
                )
            )
            listener.board.watch(reply.files)
            ended = (FileState.FINISHED, FileState.FAILED)
            wait_for(
                lambda: all(listener.board.state(f)[0] in ended for f in reply.files), "all ends", timeout=60
            )
            states = [listener.board.state(file) for file in reply.files]
    assert [state.name for state, _ in states] == ["FINISHED", "FINISHED", "FAILED"]
    assert states[2][1] == "no such module"


def test_run_when_only_rabbitmq_says_that_a_writer_failed_then_it_ends_with_its_words(
    rabbitmq, tmp_path, wait_for, monkeypatch
):
    monkeypatch.setattr(writers, "report_error_file", lambda site, body: None)
    with BrokerBench(tmp_path) as bench, AmqpPublisher(rabbitmq, bench.part):
        device = bench.device(status_exchange=rabbitmq)
        device.file_timeout.put(20.0)
        assert device.runner.listener.start(60)
        bench.part.fail_next("writer_fails", source=DETECTOR, message="no such module")
        with pytest.raises(Exception, match="no such module") as failed:
            RunEngine(context_managers=[])(sf_count([device], 1))
        device.destroy()
    assert "time is up" not in str(failed.value)

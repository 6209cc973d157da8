"""Documents go out, through bluesky's own proxy to its own dispatcher."""

from __future__ import annotations

import json
import threading
import types

import bluesky.plans as bp
import msgpack
import pytest
from bluesky import RunEngine
from bluesky.callbacks.zmq import Proxy, RemoteDispatcher
from ophyd.sim import hw

from sfdaq_ophyd.catalog.journal import plain
from sfdaq_ophyd.errors import ConfigError
from sfdaq_ophyd.session import load_config
from sfdaq_ophyd.session.config import PublishConfig
from sfdaq_ophyd.session.publish import publisher

UNPACK = {"json": json.loads, "msgpack": msgpack.unpackb}


@pytest.fixture(scope="module")
def proxy():
    """``bluesky-0MQ-proxy``: it ends with this process."""
    proxy = Proxy("tcp://127.0.0.1", "tcp://127.0.0.1")
    threading.Thread(target=proxy.start, daemon=True).start()
    return proxy


def published(proxy, config, wait_for):
    """Take a run; return what was emitted and what a dispatcher at the other end got."""
    emitted, got = [], []
    dispatcher = RemoteDispatcher(str(proxy.out_port), deserializer=UNPACK[config.format], strict=True)
    dispatcher.subscribe(lambda name, doc: got.append((name, doc)))
    listening = threading.Thread(target=_listen, args=(dispatcher,), daemon=True)
    listening.start()
    send = publisher(config)
    try:
        devices, engine = hw(), RunEngine(context_managers=[])
        engine.subscribe(lambda name, doc: emitted.append((name, doc)))
        engine.subscribe(send)
        wait_for(lambda: send("start", {"uid": "", "time": 0}) or got, "the way through the proxy")
        got.clear()
        engine(bp.scan([devices.det], devices.motor, 0, 1, 3))
        wait_for(lambda: got and got[-1][0] == "stop", "the stop document")
    finally:
        send.close()
        send.close()
        dispatcher.loop.call_soon_threadsafe(dispatcher._task.cancel)
        listening.join(60)
    return emitted, [(name, doc) for name, doc in got if doc.get("uid") != ""]


def _listen(dispatcher):
    try:
        dispatcher.start()
    except BaseException:  # cancelled
        pass


@pytest.mark.parametrize("kind", ["json", "msgpack"])
def test_run_when_published_then_the_same_documents_come_out_of_the_proxy(proxy, wait_for, kind):
    address = str(proxy.in_port).removeprefix("tcp://")
    emitted, got = published(proxy, PublishConfig(zmq=address, format=kind, prefix="here"), wait_for)
    assert json.loads(json.dumps(emitted, default=plain)) == json.loads(json.dumps(got))
    assert [name for name, _ in got] == ["start", "descriptor", "event", "event", "event", "stop"]


def test_document_when_subscriptions_never_end_then_it_is_sent_all_the_same(monkeypatch):
    class Socket:
        n_taken, sent = 0, ()

        def connect(self, address):
            pass

        def poll(self, timeout=None):
            return 1

        def recv(self):
            self.n_taken += 1
            assert self.n_taken < 10_000, "it is read until it is empty, which it never is"
            return b"\1"

        def send(self, message):
            self.sent += (message,)

        def close(self):
            pass

    socket = Socket()
    monkeypatch.setattr("zmq.Context.instance", lambda: types.SimpleNamespace(socket=lambda kind: socket))
    send = publisher(PublishConfig(zmq="127.0.0.1:9", format="json", prefix="here"))
    send("stop", {"uid": "x"})
    send.close()
    assert socket.sent == (b'here stop {"uid": "x"}',)


def test_document_when_it_cannot_be_packed_then_logged_once_and_the_run_goes_on(caplog):
    send = publisher(PublishConfig(zmq="127.0.0.1:9", format="json"))
    for _ in range(3):
        send("event", {"data": object()})
    assert caplog.text.count("cannot be sent to 127.0.0.1:9") == 1
    send.close()


def test_kafka_when_no_broker_is_there_then_the_run_goes_on_and_the_end_is_soon(monkeypatch):
    pytest.importorskip("bluesky_kafka")
    monkeypatch.setattr("sfdaq_ophyd.session.publish.KAFKA_PATIENCE_MS", 100)
    config = PublishConfig(kafka="127.0.0.1:9", topic="documents")
    send = publisher(config)
    send("start", {"uid": "a", "time": 1.0})
    assert send.where == "127.0.0.1:9, topic documents"
    send.close()
    send.close()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{format: json}", "exactly one of zmq, kafka"),
        ("{zmq: a:1, kafka: b:2, topic: t}", "exactly one of zmq, kafka"),
        ("{kafka: b:2}", "kafka and topic go together"),
        ("{zmq: a:1, format: pickle}", "publish"),
    ],
)
def test_block_when_wrong_then_the_error_names_it(tmp_path, entry, said):
    (tmp_path / "sfdaq.yaml").write_text(f"publish:\n  - {entry}\n")
    with pytest.raises(ConfigError, match=said):
        load_config(tmp_path / "sfdaq.yaml")

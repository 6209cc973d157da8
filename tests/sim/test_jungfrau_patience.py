"""Streams of a facility whose pulse clock is patient: a slow receiver makes it stand, and loses nothing."""

from __future__ import annotations

import json

import pytest
import zmq

from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.jungfrau import __main__ as sending
from sfdaq_ophyd.sim.jungfrau.__main__ import PubSocket, PushSocket


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context
        context.destroy(linger=0)


@pytest.fixture
def receiver(context):
    """Return a socket that keeps as little as it can."""

    def connect(endpoint, kind=zmq.SUB):
        socket = context.socket(kind)
        socket.set(zmq.RCVHWM, 1)
        socket.set(zmq.RCVBUF, 2**16)
        socket.set(zmq.RCVTIMEO, 60_000)
        if kind == zmq.SUB:
            socket.set(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)
        return socket

    return connect


@pytest.fixture(scope="module")
def facility():
    with Facility(speed="auto", only=["jungfrau"], jungfrau_name="JF04T02V01") as facility:
        yield facility


def test_receiver_when_it_takes_nothing_then_the_clock_stands_and_no_frame_is_lost(
    facility, receiver, wait_for
):
    slow, quick = map(receiver, facility.jungfrau.endpoints)
    wait_for(lambda: all(facility.jungfrau.status()["subscribed"]), "subscribed")

    def stands():
        status = facility.clock.status()
        return status["held_by"] and not facility.clock.wait_for(status["pulse_id"] + 1, timeout=0.3)

    for _ in range(2):  # it may also be held for a moment, while the receiver's buffers fill
        wait_for(stands, "the clock stands")
        assert facility.clock.status()["held_by"] == "jungfrau"

    def ids(socket):
        header = json.loads(socket.recv_multipart()[0])
        return header["frameNumber"], header["detSpec1"]

    one, other = ids(slow), ids(quick)
    while one != other:  # they connected one after the other
        one, other = (ids(slow), other) if one < other else (one, ids(quick))
    pairs = [(one, other)]
    for _ in range(59):  # of both streams, one after the other
        pairs.append((ids(slow), ids(quick)))
    assert [one for one, _ in pairs] == [other for _, other in pairs]
    assert [number for (number, _), _ in pairs] == list(range(one[0], one[0] + 60))
    assert facility.jungfrau.status()["n_left_out"] == 0
    slow.close(0)
    quick.close(0)
    assert facility.clock.wait_for(facility.clock.now() + 50, timeout=60), "nobody is waited for any more"


def test_live_stream_when_its_receiver_takes_nothing_then_no_image_is_left_out(facility, receiver, wait_for):
    live = receiver(facility.jungfrau.live_endpoint, zmq.PULL)
    wait_for(lambda: facility.clock.status()["held_by"] == "jungfrau", "the clock stands")
    numbers = [json.loads(live.recv_multipart()[0])["frame"] for _ in range(60)]
    assert numbers == list(range(numbers[0], numbers[0] + 60))
    live.close(0)
    assert facility.clock.wait_for(facility.clock.now() + 50, timeout=60)


class Numbered:
    """Send numbered messages to a socket; those it waits with are sent again."""

    def __init__(self, socket):
        self.socket, self.n = socket, 0

    def send(self):
        taken = self.socket.send([b"%d" % self.n, bytes(2**18)])
        self.n += taken
        return taken


def test_pub_when_patient_then_waits_for_its_client_and_then_gives_up(
    context, receiver, wait_for, monkeypatch, caplog
):
    monkeypatch.setattr(sending, "PATIENCE", 0.5)
    socket = PubSocket(context, 0, 1000, patient=True)
    client = receiver(socket.endpoint)
    wait_for(lambda: socket.wanted, "subscribed")
    sender = Numbered(socket)
    wait_for(lambda: sender.send() and "took nothing for 0.5 s and loses frames" in caplog.text, "given up")
    n = sender.n - 1  # were sent before
    assert all(sender.send() for _ in range(50)), "it is not waited for again"
    numbers = [int(client.recv_multipart()[0]) for _ in range(n)]
    assert numbers == list(range(n))
    wait_for(lambda: sender.send() and client.poll(10), "it takes messages again")
    wait_for(lambda: not sender.send(), "it is waited for as before")


def test_pub_when_not_patient_then_its_client_loses_messages(context, receiver, wait_for):
    socket = PubSocket(context, 0, 2, patient=False)
    client = receiver(socket.endpoint)
    wait_for(lambda: socket.wanted, "subscribed")
    assert all(socket.send([b"%d" % n, bytes(2**18)]) for n in range(300))
    assert client.recv_multipart()[0] == b"0"
    client.set(zmq.RCVTIMEO, 500)
    received = 1
    with pytest.raises(zmq.Again):
        while client.recv_multipart():
            received += 1
    assert received < 300


def test_push_when_patient_then_wanted_and_waited_for_only_while_a_client_is_there(
    context, receiver, wait_for
):
    socket = PushSocket(context, 0, 10, patient=True)
    assert not socket.wanted and socket.send([b"nobody"])
    client = receiver(socket.endpoint, zmq.PULL)
    wait_for(lambda: socket.wanted, "connected")
    sender = Numbered(socket)
    wait_for(lambda: not sender.send(), "it waits")
    numbers = [int(client.recv_multipart()[0]) for _ in range(sender.n)]
    assert numbers == list(range(sender.n))
    wait_for(lambda: not sender.send(), "it waits")
    client.close(0)
    wait_for(sender.send, "it has gone")
    wait_for(lambda: not socket.wanted, "its going is noticed")


@pytest.mark.parametrize("kind", [PubSocket, PushSocket])
def test_wanted_when_clients_come_and_go_faster_than_it_looks_then_it_is_told_all_the_same(
    context, kind, monkeypatch
):
    socket = kind(context, 0, 10, patient=True)
    endless = type("Endless", (), {"get": lambda self, option: zmq.POLLIN, "recv": lambda self: b"\1"})()
    monkeypatch.setattr(socket, "_socket" if kind is PubSocket else "_monitor", endless)
    accepted = {"event": zmq.EVENT_ACCEPTED, "value": 7}
    monkeypatch.setattr(sending, "recv_monitor_message", lambda socket: accepted)
    assert socket.wanted

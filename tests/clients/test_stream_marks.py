"""Marks, fair ports, slow consumers, stuck consumers: what holds however fast the sender is."""

from __future__ import annotations

import contextlib
import threading
import time
import types

import pytest

from sfdaq_ophyd.clients import ImageStream, ModuleStream
from sfdaq_ophyd.clients._receiver import HIGH_WATER
from sfdaq_ophyd.errors import RequestError, ServiceTimeout
from sfdaq_ophyd.wire.image_header import ImageHeader

from .stream_peers import PIXELS, SHAPE, Publisher, collect, send_small

MOST_OLD = 2 * HIGH_WATER  # messages of a port after a mark, before it is connected anew


class Flood:
    """Send module frames from all ports as fast as can be, with slsReceiver's high-water mark."""

    def __init__(self, peer, ticks):
        self._peer, self._ticks = peer, ticks
        self.last = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        begin = time.monotonic()
        while not self._stopped.wait(1e-4):
            ticks = self._ticks(self.last + 1, time.monotonic() - begin)
            self.last += 1
            send_small(self._peer, self.last, ticks=ticks)

    def wait_for_more(self, n):
        """Return once `n` more were sent, or it is over."""
        until = self.last + n
        while self.last < until and not self._stopped.wait(1e-4):
            pass

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stopped.set()
        self._thread.join()


CLOCKS = {
    "true": lambda number, seconds: 1 + int(seconds * 1e7),
    "none": lambda number, seconds: 0,
    "fast": lambda number, seconds: number * 1_000_000,
    "slow": lambda number, seconds: number,
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_flush_when_the_sender_is_ten_times_faster_then_ends_at_once_and_nothing_old_comes(clock, wait_for):
    with Publisher(2, high_water=1000) as peer, ModuleStream(peer.endpoints) as stream:
        newest, flood = [], Flood(peer, CLOCKS[clock])

        def take(frame):
            if frame is not None:
                newest.append(frame.frame_number)
                flood.wait_for_more(10)

        stream.subscribe(take)
        stream.wait_connected(60)
        peer.wait_subscribed()
        with flood:
            for _ in range(3):
                newest.clear()
                wait_for(lambda: len(newest) > HIGH_WATER and flood.last > newest[-1] + 400, "the flood")
                before, sent = stream.counters["received"], flood.last
                stream.flush()
                assert stream.counters["received"] - before < 1000, "it waited for the flood to end"
                with stream.frames() as queue:
                    assert queue.get(60).frame_number > sent


def test_flush_when_ports_were_quiet_then_the_very_next_frame_comes(monkeypatch):
    """Whatever its clock says: nothing can have been on its way."""
    passed = [0.0]
    ours = types.SimpleNamespace(
        time=lambda: time.time() + passed[0], monotonic=lambda: time.monotonic() + passed[0]
    )
    monkeypatch.setattr("sfdaq_ophyd.clients._receiver.time", ours)
    with Publisher(2) as peer, ModuleStream(peer.endpoints) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        for number in range(1, 9):
            passed[0] += 0.15
            stream.flush()
            send_small(peer, number, ticks=number)
            assert collect(queue, 1)[0].frame_number == number


def flush_in_a_callback(stream, send_all, wait_for):
    """Send all while a consumer of the stream is stuck with the first, and flush before it goes on."""
    stuck, go = threading.Event(), threading.Event()
    stop = stream.subscribe(lambda frame: (stuck.set(), go.wait(60)))
    send_all()
    assert stuck.wait(60)
    stop()
    flushing = threading.Thread(target=stream.flush)
    flushing.start()
    wait_for(lambda: stream._receiver.marked, "the mark")
    go.set()
    flushing.join()


def test_flush_when_many_old_messages_lie_in_the_sockets_then_a_port_is_connected_anew(wait_for):
    with Publisher(1) as peer, ModuleStream(peer.endpoints) as stream:
        stream.wait_connected(60)
        peer.wait_subscribed()
        old = range(1, 20 * MOST_OLD)
        flush_in_a_callback(stream, lambda: send_small(peer, *old, ports=[0], n_ports=1), wait_for)
        peer.wait_subscribed()
        with stream.frames() as queue:  # the first message of the new connection is not of a whole image
            send_small(peer, 20 * MOST_OLD, 20 * MOST_OLD + 1, ports=[0], n_ports=1)
            assert queue.get(60).frame_number == 20 * MOST_OLD + 1
        assert stream.counters["flushed"] <= MOST_OLD + 4 * HIGH_WATER


def test_flush_when_called_from_a_callback_then_does_not_wait_for_itself():
    with Publisher(1) as peer, ModuleStream(peer.endpoints) as stream:
        queue = stream.frames()
        stream.subscribe(lambda frame: frame and stream.flush())
        stream.wait_connected(60)
        peer.wait_subscribed()
        send_small(peer, 1, ports=[0], n_ports=1)
        assert collect(queue, 1)[0].frame_number == 1


def test_flush_when_the_stream_is_closed_then_says_so():
    with pytest.raises(RequestError, match="flush='closed'"):
        ModuleStream(["tcp://127.0.0.1:1"]).flush()


def test_images_when_flushed_then_those_of_later_pulses_come_and_no_other(wait_for):
    with Publisher() as peer, ImageStream(peer.endpoints[0]) as stream:
        stream.wait_connected(60)
        peer.wait_subscribed()
        begin = time.monotonic()

        def send_image(number):
            pulse_id = 10**10 + int(100 * (time.monotonic() - begin))
            peer.send(0, ImageHeader(frame_number=number, shape=SHAPE, pulse_id=pulse_id).encode(), PIXELS)

        flush_in_a_callback(stream, lambda: [send_image(number) for number in range(1, 200)], wait_for)
        number = 199
        with stream.frames() as queue:
            while True:
                number += 1
                send_image(number)
                with contextlib.suppress(ServiceTimeout):
                    assert queue.get(0.01).frame_number >= 200
                    break


def test_port_when_it_is_connected_anew_then_frames_of_the_others_are_not_taken_for_incomplete(wait_for):
    with Publisher(2) as peer, ModuleStream(peer.endpoints, max_age=0.2) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        send_small(peer, 1)
        collect(queue, 1)
        stream.flush()
        receiver = stream._receiver
        receiver._old, receiver._anew = (
            {},
            {1},
        )  # as if the frames of port 1 were lost with its old connection
        send_small(peer, 2, 3, 4, ports=[0])
        wait_for(lambda: stream.counters["flushed"] == 3, "the halves of images to be given up")
        send_small(peer, 5)
        wait_for(lambda: not receiver._anew, "the port to be heard again")
        send_small(peer, 6)
        assert queue.get(60).frame_number == 6 and stream.counters["incomplete"] == 0

"""Marks, fair ports, slow consumers, stuck consumers: what holds however fast the sender is."""

from __future__ import annotations

import contextlib
import threading
import time
import types

import pytest
import zmq

from sfdaq_ophyd.clients import ImageStream, ModuleStream
from sfdaq_ophyd.clients._receiver import HIGH_WATER
from sfdaq_ophyd.errors import RequestError, ServiceTimeout
from sfdaq_ophyd.wire.image_header import ImageHeader
from sfdaq_ophyd.wire.module_header import ModuleHeader

from .stream_peers import Publisher, collect

MOST_OLD = 2 * HIGH_WATER  # messages of a port after a mark, before it is connected anew
SHAPE = (4, 8)
PIXELS = bytes(64)


def header(number, port=0, n_ports=2, **fields):
    blocks = {"row": port, "detector_blocks": (n_ports, 1), "shape": SHAPE}
    return ModuleHeader(frame_number=number, frame_index=1, **blocks, **fields).encode()


def send(peer, *numbers, ports=(0, 1), **fields):
    for number in numbers:
        for port in ports:
            peer.send(port, header(number, port, **fields), PIXELS)


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
            send(self._peer, self.last, ticks=ticks)

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
            send(peer, number, ticks=number)
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
        flush_in_a_callback(stream, lambda: send(peer, *old, ports=[0], n_ports=1), wait_for)
        assert peer.sockets[0].poll(10_000), "no new subscription"
        with stream.frames() as queue:
            number = 20 * MOST_OLD
            while True:
                send(peer, number, number + 1, ports=[0], n_ports=1)
                number += 2
                try:
                    assert queue.get(0.05).frame_number >= 20 * MOST_OLD
                    break
                except ServiceTimeout:
                    assert number < 22 * MOST_OLD
        assert stream.counters["flushed"] <= MOST_OLD + 4 * HIGH_WATER


def test_flush_when_called_from_a_callback_then_does_not_wait_for_itself():
    with Publisher(1) as peer, ModuleStream(peer.endpoints) as stream:
        queue = stream.frames()
        stream.subscribe(lambda frame: frame and stream.flush())
        stream.wait_connected(60)
        peer.wait_subscribed()
        send(peer, 1, ports=[0], n_ports=1)
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


def test_port_when_it_floods_then_the_others_are_served_all_the_same():
    n = 5000
    with Publisher(2) as peer, ModuleStream(peer.endpoints) as stream:
        seen = []
        stream.subscribe(lambda frame: frame and seen.append(stream.counters["duplicate"]))
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        send(peer, *[1] * n, ports=[0])
        send(peer, 1, ports=[1])
        assert collect(queue, 1)[0].is_good
        assert seen[0] < n - 1


@pytest.mark.parametrize("kind", ["modules", "images"])
def test_frames_when_the_consumer_is_slow_then_they_wait_with_the_sender_and_none_is_lost(kind):
    n = 300
    with Publisher(2 if kind == "modules" else 1) as peer:
        if kind == "modules":
            stream = ModuleStream(peer.endpoints, n_images=4)
        else:
            stream = ImageStream(peer.endpoints[0], n_images=4)
        with stream:
            queue = stream.frames()
            stream.wait_connected(60)
            peer.wait_subscribed()
            for number in range(1, n + 1):
                if kind == "modules":
                    send(peer, number)
                else:
                    peer.send(0, ImageHeader(frame_number=number, shape=SHAPE).encode(), PIXELS)
            numbers, kept = [], []
            while len(numbers) < n:
                kept.append(queue.get(60))
                numbers.append(kept[-1].frame_number)
                if len(kept) == 4:
                    del kept[:3]
            assert numbers == list(range(1, n + 1)) and stream.counters["dropped"] == 0


def test_frames_when_the_consumer_keeps_all_then_others_are_dropped_in_the_end_and_it_goes_on(wait_for):
    with Publisher(2) as peer, ModuleStream(peer.endpoints, n_images=4, max_hold=0.1) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        send(peer, *range(1, 21))
        kept = collect(queue, 4)
        wait_for(lambda: stream.counters["dropped"] == 16, "the rest to be dropped")
        kept.clear()
        send(peer, 21)
        assert collect(queue, 1)[0].frame_number == 21


def test_ports_when_one_is_ahead_of_the_other_by_more_than_the_buffers_then_all_images_are_whole():
    with Publisher(2) as peer, ModuleStream(peer.endpoints, n_images=4, max_age=10) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        send(peer, *range(1, 41), ports=[0])
        send(peer, *range(1, 41), ports=[1])
        frames = []
        for _ in range(40):
            frame = queue.get(60)
            frames.append((frame.frame_number, frame.is_good))
            del frame
        assert frames == [(number, True) for number in range(1, 41)]


def test_close_when_a_callback_is_stuck_then_its_thread_closes_its_own_sockets(monkeypatch, caplog, wait_for):
    monkeypatch.setattr("sfdaq_ophyd.clients.stream.CLOSE_TIMEOUT", 0.1)
    raised = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    with Publisher(1) as peer:
        stream = ModuleStream(peer.endpoints)
        stuck, go, seen = threading.Event(), threading.Event(), []

        def callback(frame):
            if frame is not None:
                stuck.set()
                go.wait(60)
                seen.append(frame.frame_number)

        stream.subscribe(callback)
        other = stream.frames()
        stream.open()
        stream.wait_connected(60)
        peer.wait_subscribed()
        send(peer, 1, 2, 3, ports=[0], n_ports=1)
        assert stuck.wait(60)
        receiver = stream._receiver
        with pytest.raises(ServiceTimeout, match="its thread is in <function .*callback"):
            stream.close()
        stream.close()
        assert not any(socket.closed for socket in receiver._sockets)
        assert len(list(other)) <= 1, "the iterators of others did not end"
        stream.open()  # works again beside it
        stream.wait_connected(60)
        go.set()
        receiver.thread.join(60)
        assert all(socket.closed for socket in receiver._sockets) and receiver._context.closed
        assert seen == [1]
        again = stream.frames()
        peer.wait_subscribed()
        send(peer, 7, ports=[0], n_ports=1)
        assert again.get(60).frame_number == 7
        stream.close()
    assert not raised and "Socket operation" not in caplog.text


def test_flush_when_a_callback_is_stuck_then_says_where():
    with Publisher(1) as peer, ModuleStream(peer.endpoints) as stream:
        stuck, go = threading.Event(), threading.Event()
        stream.subscribe(lambda frame: (stuck.set(), go.wait(60)))
        stream.wait_connected(60)
        peer.wait_subscribed()
        send(peer, 1, ports=[0], n_ports=1)
        assert stuck.wait(60)
        with pytest.raises(ServiceTimeout, match="the receiving thread is in <function"):
            stream.flush(0.1)
        go.set()


def test_close_when_other_threads_wake_the_stream_then_no_socket_is_theirs():
    """Flushes and returned buffers come from any thread, at any time: also when it is closed, and after."""
    with Publisher(1) as peer:
        stream = ModuleStream(peer.endpoints, n_images=2)
        kept, done = [], threading.Event()

        def disturb():
            while not done.is_set():
                kept.clear()
                try:
                    stream.flush(1)
                except (RequestError, ServiceTimeout):
                    pass

        threads = [threading.Thread(target=disturb) for _ in range(2)]
        stream.subscribe(lambda frame: frame and kept.append(frame))
        for thread in threads:
            thread.start()
        for _ in range(10):
            with stream:
                stream.wait_connected(60)
                send(peer, *range(1, 30), ports=[0], n_ports=1)
        done.set()
        for thread in threads:
            thread.join()


def test_stream_when_nothing_comes_then_its_thread_waits_until_something_does(monkeypatch, wait_for):
    waits, poll = [], zmq.Poller.poll

    def noted(poller, timeout=None):
        if threading.current_thread().name.startswith("frames of"):
            waits.append(timeout)
        return poll(poller, timeout)

    monkeypatch.setattr(zmq.Poller, "poll", noted)
    with Publisher(4) as peer, ModuleStream(peer.endpoints) as stream:
        stream.wait_connected(60)
        waits.clear()
        stream.flush()  # one look
        wait_for(lambda: waits[-1:] == [None], "a wait that no time ends")


def test_port_when_it_is_connected_anew_then_frames_of_the_others_are_not_taken_for_incomplete(wait_for):
    with Publisher(2) as peer, ModuleStream(peer.endpoints, max_age=0.2) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        send(peer, 1)
        collect(queue, 1)
        stream.flush()
        receiver = stream._receiver
        receiver._old, receiver._anew = (
            {},
            {1},
        )  # as if the frames of port 1 were lost with its old connection
        send(peer, 2, 3, 4, ports=[0])
        wait_for(lambda: stream.counters["flushed"] == 3, "the halves of images to be given up")
        for number in range(5, 30):
            send(peer, number)
            with contextlib.suppress(ServiceTimeout):
                assert queue.get(0.05).frame_number >= 6
                break
        assert number < 29 and stream.counters["incomplete"] == 0


def test_thread_when_anything_raises_in_it_then_it_goes_on_and_says_so(wait_for):
    with Publisher(1) as peer, ModuleStream(peer.endpoints) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        settle, problems = stream._intake.settle, iter([KeyError("a hostile one")])

        def broken(*args):
            for problem in problems:
                raise problem
            return settle(*args)

        stream._intake.settle = broken
        send(peer, 1, ports=[0], n_ports=1)
        wait_for(lambda: "a hostile one" in stream.last_problem, "the problem to be told")
        send(peer, 2, ports=[0], n_ports=1)
        assert [frame.frame_number for frame in collect(queue, 2)] == [1, 2]
        assert stream.counters["unparsable"] == 1

"""The thread of a stream: fair to ports, patient with slow consumers, and gone when it is closed."""

from __future__ import annotations

import threading

import pytest
import zmq

from sfdaq_ophyd.clients import ImageStream, ModuleStream
from sfdaq_ophyd.clients._receiver import _BATCH
from sfdaq_ophyd.errors import RequestError, ServiceTimeout
from sfdaq_ophyd.wire.image_header import ImageHeader

from .stream_peers import PIXELS, SHAPE, Publisher, Refilled, collect, send_small


def test_port_when_it_floods_then_the_others_are_served_all_the_same(monkeypatch, wait_for):
    """It sends faster than we receive, so that nothing but the size of a batch ends its turn."""
    n_sent, turns, over, poll = [0], [0], threading.Event(), zmq.Poller.poll

    def look(poller, timeout=None):
        if threading.current_thread().name.startswith("frames of"):
            turns.append(0)
        return poll(poller, timeout)

    monkeypatch.setattr(zmq.Poller, "poll", look)
    with Publisher(2, high_water=100) as peer, ModuleStream(peer.endpoints) as stream:
        queue, put = stream.frames(), stream._intake.put

        def flood():
            while not over.wait(1e-4):
                send_small(peer, 1, ports=[0])
                n_sent[0] += 1

        def slow(message):
            if message.port == 0:
                turns[-1] += 1
                if turns[-1] > 50 * _BATCH:
                    over.set()
                until = n_sent[0] + 3
                while n_sent[0] < until and not over.wait(1e-4):
                    pass
            put(message)

        stream._intake.put = slow
        stream.wait_connected(60)
        peer.wait_subscribed()
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            wait_for(lambda: max(turns) >= _BATCH, "a whole batch")
            send_small(peer, 1, ports=[1])
            assert collect(queue, 1)[0].is_good
        finally:
            over.set()
            flooding.join(60)
    assert max(turns) <= 2 * _BATCH, "the second where the first ended with a message that was held"


def test_clear_when_frames_come_faster_than_they_are_forgotten_then_those_that_waited_are():
    frames = ModuleStream(["tcp://127.0.0.1:1"]).frames()
    frames._frames = Refilled()
    for number in range(5):
        frames._frames.put(number)
    frames.clear()
    assert frames._frames.n_taken == 5


def test_clear_when_the_stream_is_closed_then_the_iterator_ends_all_the_same():
    frames = ModuleStream(["tcp://127.0.0.1:1"]).frames()
    frames._frames.put(1)
    frames.close()
    for _ in range(2):
        frames.clear()
    assert list(frames) == []


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
                    send_small(peer, number)
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
        send_small(peer, *range(1, 21))
        kept = collect(queue, 4)
        wait_for(lambda: stream.counters["dropped"] == 16, "the rest to be dropped")
        kept.clear()
        send_small(peer, 21)
        assert collect(queue, 1)[0].frame_number == 21


def test_ports_when_one_is_ahead_of_the_other_by_more_than_the_buffers_then_all_images_are_whole():
    with Publisher(2) as peer, ModuleStream(peer.endpoints, n_images=4, max_age=60) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        send_small(peer, *range(1, 41), ports=[0])
        send_small(peer, *range(1, 41), ports=[1])
        frames = []
        for _ in range(40):
            frame = queue.get(60)
            frames.append((frame.frame_number, frame.is_good))
            del frame
        assert frames == [(number, True) for number in range(1, 41)]


def test_close_when_a_callback_is_stuck_then_its_thread_closes_its_own_sockets(monkeypatch, caplog, wait_for):
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
        send_small(peer, 1, 2, 3, ports=[0], n_ports=1)
        assert stuck.wait(60)
        receiver = stream._receiver
        with monkeypatch.context() as patch:
            patch.setattr("sfdaq_ophyd.clients.stream.CLOSE_TIMEOUT", 0.1)
            with pytest.raises(ServiceTimeout, match="its thread is in <function .*callback"):
                stream.close()
        stream.close()
        monkeypatch.undo()
        monkeypatch.setattr(threading, "excepthook", raised.append)
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
        send_small(peer, 7, ports=[0], n_ports=1)
        assert again.get(60).frame_number == 7
        stream.close()
    assert not raised and "Socket operation" not in caplog.text


def test_flush_when_a_callback_is_stuck_then_says_where():
    with Publisher(1) as peer, ModuleStream(peer.endpoints) as stream:
        stuck, go = threading.Event(), threading.Event()
        stream.subscribe(lambda frame: (stuck.set(), go.wait(60)))
        stream.wait_connected(60)
        peer.wait_subscribed()
        send_small(peer, 1, ports=[0], n_ports=1)
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
                send_small(peer, *range(1, 30), ports=[0], n_ports=1)
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
        send_small(peer, 1, ports=[0], n_ports=1)
        wait_for(lambda: "a hostile one" in stream.last_problem, "the problem to be told")
        send_small(peer, 2, ports=[0], n_ports=1)
        assert [frame.frame_number for frame in collect(queue, 2)] == [1, 2]
        assert stream.counters["unparsable"] == 1

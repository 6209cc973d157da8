import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

from sfdaq_ophyd.clients import ModuleStream
from sfdaq_ophyd.errors import RequestError, ServiceTimeout
from sfdaq_ophyd.wire.module_header import ModuleHeader

from .stream_peers import Publisher, collect

PIXELS = np.arange(512 * 1024, dtype="u2")


def header(number, port=0, n_ports=2, **fields):
    return ModuleHeader(frame_number=number, row=port, detector_blocks=(n_ports, 1), frame_index=1, **fields)


@pytest.fixture
def pair():
    """A publisher of two ports and a stream that listens to it."""
    with Publisher(2) as peer, ModuleStream(peer.endpoints, max_age=0.5) as stream:
        stream.wait_connected(60)
        peer.wait_subscribed()
        yield peer, stream


def send(peer, number, *ports, **fields):
    for port in ports or (0, 1):
        peer.send(port, header(number, port, **fields).encode(), PIXELS + number + port)


def test_frames_when_iterated_then_come_with_pixels_of_both_modules(pair):
    peer, stream = pair
    queue = stream.frames()
    for number in range(1, 21):
        send(peer, number)
    for number, frame in zip(range(1, 21), queue):
        assert frame.frame_number == number and frame.is_good
        assert np.array_equal(frame.image[:512].ravel(), PIXELS + number)
        assert np.array_equal(frame.image[512:].ravel(), PIXELS + number + 1)


def test_endpoints_when_given_in_another_order_then_modules_are_in_their_place():
    with Publisher(2) as peer, ModuleStream(peer.endpoints[::-1]) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        send(peer, 1)
        assert queue.get(60).image[512, 0] == 2


def test_frames_when_there_are_32_ports_then_each_module_is_in_its_place():
    with Publisher(32) as peer, ModuleStream(peer.endpoints, detector_name="JF07T32V02") as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        for number in (1, 2):
            for port in range(32):
                text = header(number, port, n_ports=32).encode()
                peer.send(port, text, np.full(512 * 1024, 100 * number + port, "u2"))
        for number, frame in zip((1, 2), collect(queue, 2)):
            assert frame.is_good and frame.image.shape == (32 * 512, 1024)
            rows = frame.image.reshape(32, 512, 1024)
            assert (rows == 100 * number + np.arange(32)[:, None, None]).all()


def test_callback_when_it_raises_then_the_stream_goes_on(pair, caplog):
    peer, stream = pair
    seen, queue = [], stream.frames()

    def callback(frame):
        seen.append(frame.frame_number)
        raise ValueError("not today")

    unsubscribe = stream.subscribe(callback)
    send(peer, 1)
    send(peer, 2)
    collect(queue, 2)
    assert seen == [1, 2] and "not today" in caplog.text
    unsubscribe()
    unsubscribe()
    send(peer, 3)
    collect(queue, 1)
    assert seen == [1, 2]


def test_close_when_called_from_a_callback_then_is_refused_and_the_stream_goes_on(pair, caplog):
    peer, stream = pair
    queue = stream.frames()
    stream.subscribe(lambda frame: stream.close())
    send(peer, 1)
    send(peer, 2)
    collect(queue, 2)
    assert "from a callback" in caplog.text


def poison():
    good = header(7, 0).encode()
    return {
        "empty": [b""],
        "garbage": [b"\xff\xfe\x00garbage", PIXELS],
        "half a header": [good[:100], PIXELS],
        "quote in a string": [good.replace(b'"fname":""', b'"fname":"a"b"'), PIXELS],
        "infinite progress": [good.replace(b'"progress":0', b'"progress":inf'), PIXELS],
        "foreign json": [b'{"htype":"dheader-1.0","series":1}', PIXELS],
        "deep json": [b"[" * 50_000, PIXELS],
        "half the pixels": [good, PIXELS[: PIXELS.size // 2]],
        "too many pixels": [good, np.concatenate([PIXELS, PIXELS])],
        "no pixels": [good, b""],
        "three parts": [good, PIXELS, b"more"],
        "256 rows": [header(7, shape=(256, 1024)).encode(), PIXELS[: PIXELS.size // 2]],
        "32 bit": [good.replace(b'"bitmode":16', b'"bitmode":32'), PIXELS],
        "other detector": [good.replace(b'"detshape":[1, 2]', b'"detshape":[1, 3]'), PIXELS],
        "pickle": [pickle.dumps({"evil": print}), PIXELS],
    }  # fmt: skip


@pytest.mark.parametrize("kind", poison())
def test_message_when_poisoned_then_is_counted_and_the_stream_goes_on(pair, kind, wait_for):
    peer, stream = pair
    queue = stream.frames()
    send(peer, 1)
    peer.send(0, *poison()[kind])
    counter = "foreign" if kind in ("256 rows", "other detector") else "unparsable"
    wait_for(lambda: stream.counters[counter] == 1, "the message to be counted")
    send(peer, 7)
    send(peer, 8)
    frames = collect(queue, 3)
    assert [frame.frame_number for frame in frames] == [1, 7, 8]
    assert all(frame.is_good for frame in frames)
    assert np.array_equal(frames[1].image[:512].ravel(), PIXELS + 7)
    assert stream.last_problem


def test_message_when_larger_than_any_frame_then_the_connection_recovers(pair, wait_for):
    peer, stream = pair
    queue = stream.frames()
    peer.send(0, b"x" * (8 << 20))
    peer.wait_subscribed(ports=[0])  # the connection is cut, and made again
    wait_for(lambda: all(stream.connected), "reconnection")

    def both():
        send(peer, 5)
        try:
            return queue.get(0.05).is_good
        except ServiceTimeout:
            return False

    wait_for(both, "a frame after the reconnection")


def test_one_part_message_when_it_is_no_end_then_still_ends_the_port(pair, wait_for):
    peer, stream = pair
    queue = stream.frames()
    send(peer, 5)
    for port in (0, 1):
        peer.send(port, header(6, port).encode())
    send(peer, 1)
    send(peer, 2)
    frames = collect(queue, 3)
    assert [(frame.frame_number, frame.acquisition) for frame in frames] == [(5, 0), (1, 1), (2, 1)]
    assert stream.counters["unparsable"] == 0


def test_end_message_when_in_two_parts_then_is_an_end(pair):
    peer, stream = pair
    queue = stream.frames()
    send(peer, 5)
    for port in (0, 1):
        peer.send(port, ModuleHeader.end().encode(), b"")
    send(peer, 1)
    assert [frame.acquisition for frame in collect(queue, 2)] == [0, 1]


def test_flush_when_frames_lie_in_the_sockets_then_none_of_them_comes_later(pair):
    peer, stream = pair
    queue = stream.frames()
    for number in range(1, 30):
        send(peer, number)
    peer.send(0, header(30).encode(), PIXELS)  # half an image
    collect(queue, 29)
    stream.flush()
    queue.clear()
    peer.send(1, header(30, 1).encode(), PIXELS)
    send(peer, 31)
    assert collect(queue, 1)[0].frame_number == 31
    assert stream.counters["flushed"] == 1


def test_get_when_nothing_comes_then_says_what_each_port_sent(pair):
    peer, stream = pair
    queue = stream.frames()
    send(peer, 3)
    collect(queue, 1)
    with pytest.raises(ServiceTimeout) as error:
        queue.get(0.05)
    assert f"{peer.endpoints[1]}: 1 frames, last number 3" in str(error.value)


def test_close_when_a_consumer_waits_then_its_iterator_ends(pair):
    _, stream = pair
    ended = threading.Event()
    queue = stream.frames()
    thread = threading.Thread(target=lambda: (list(queue), ended.set()))
    thread.start()
    stream.close()
    stream.close()
    assert ended.wait(60)
    thread.join()


def test_open_when_closed_before_then_works_again_with_new_counters(pair):
    peer, stream = pair
    send(peer, 1)
    stream.close()
    stream.open()
    stream.wait_connected(60)
    peer.wait_subscribed()
    queue = stream.frames()
    send(peer, 1)
    assert queue.get(60).is_good and stream.counters["received"] == 2


def test_thread_when_stream_is_open_then_is_one_and_none_when_closed():
    before = set(threading.enumerate())
    with Publisher(8) as peer, ModuleStream(peer.endpoints) as stream:
        assert len(set(threading.enumerate()) - before) == 1
        stream.wait_connected(60)
    assert set(threading.enumerate()) <= before


def test_wait_connected_when_nobody_is_there_then_names_the_endpoint(closed_port):
    endpoint = f"tcp://127.0.0.1:{closed_port}"
    with (
        ModuleStream([endpoint]) as stream,
        pytest.raises(ServiceTimeout, match=f"connecting to {endpoint}"),
    ):
        stream.wait_connected(0.2)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": ["tcp://a:1", "tcp://a:1"]}, "endpoints"),
        ({"endpoints": [f"tcp://a:{i}" for i in range(65)]}, "endpoints"),
        ({"endpoints": ["localhost:30001"]}, "endpoint"),
        ({"endpoints": [7]}, "endpoint"),
        ({"endpoints": ["tcp://a:99999"]}, "endpoint"),
        ({"endpoints": ["http://a:80"]}, "endpoint"),
        ({"endpoints": ["tcp://a:1"], "incomplete": "maybe"}, "incomplete"),
        ({"endpoints": ["tcp://a:1"], "max_age": 0}, "max_age"),
        ({"endpoints": ["tcp://a:1"], "detector_name": "JF"}, "detector_name"),
    ],
)
def test_stream_when_arguments_are_wrong_then_refuses_before_anything_is_opened(arguments, field):
    with pytest.raises(RequestError) as error:
        ModuleStream(**arguments)
    assert error.value.field == field


def test_open_when_an_address_cannot_be_then_names_it_and_leaves_nothing():
    before = set(threading.enumerate())
    stream = ModuleStream(["ipc:///no/such/folder" + "/x" * 200])
    with pytest.raises(RequestError, match="/no/such/folder"):
        stream.open()
    assert set(threading.enumerate()) <= before
    stream.close()


def test_memory_when_many_frames_pass_then_buffers_are_used_again(pair):
    peer, stream = pair
    queue = stream.frames()
    addresses = set()
    for number in range(1, 101):
        send(peer, number)
        frame = queue.get(60)
        addresses.add(frame.image.__array_interface__["data"][0])
        del frame
    gc.collect()
    assert len(addresses) <= 3


def test_memory_when_closed_then_is_given_back_once_nobody_looks_at_a_frame(pair):
    peer, stream = pair
    queue = stream.frames()
    send(peer, 1)
    (frame,) = collect(queue, 1)
    ring = weakref.ref(stream._assembler.ring)
    stream.close()
    assert stream.counters["complete"] == 1 and frame.image[0, 1] == 2
    gc.collect()
    assert ring() is None

"""Whole images from one endpoint: sf-daq's assembled stream, the standard DAQ's live stream."""

from __future__ import annotations

import struct

import numpy as np

from sfdaq_ophyd.clients import ImageStream
from sfdaq_ophyd.wire.image_header import ImageHeader

from .stream_peers import Publisher, collect

PIXELS = np.arange(512 * 1024, dtype="u2")


def test_stream_when_buffers_run_out_then_the_next_frame_says_how_many_were_dropped(wait_for):
    with Publisher() as peer, ImageStream(peer.endpoints[0], n_images=2, max_hold=0.1) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        for number in range(1, 6):
            peer.send(0, ImageHeader(frame_number=number, shape=(4, 4)).encode(), bytes(32))
        held = collect(queue, 2)
        wait_for(lambda: stream.counters["dropped"] == 3, "three images to be dropped")
        held.clear()
        for number in (6, 7):
            peer.send(0, ImageHeader(frame_number=number, shape=(4, 4)).encode(), bytes(32))
        assert [(f.frame_number, f.n_dropped) for f in collect(queue, 2)] == [(6, 3), (7, 0)]


def test_stream_when_images_are_of_another_detector_then_they_are_refused(wait_for):
    with Publisher() as peer, ImageStream(peer.endpoints[0], detector_name="JF01T03V01") as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        for number, name in enumerate(("JF02T09V03", "Eiger", "JF01T03V02", "")):
            header = ImageHeader(frame_number=number, shape=(4, 4), detector_name=name)
            peer.send(0, header.encode(), bytes(32))
        assert [frame.frame_number for frame in collect(queue, 2)] == [2, 3]
        assert stream.counters["foreign"] == 2 and "'Eiger'" in stream.last_problem


def test_stream_when_messages_are_poisoned_then_counts_them_and_goes_on(wait_for):
    good = ImageHeader(frame_number=1, shape=(512, 1024), pulse_id=5, daq_rec=0)
    pixels = PIXELS.tobytes()
    bad = [
        [b"no json", pixels],
        [b'{"htype":"bsr_m-1.1"}', pixels],
        [good.encode(), pixels[:-2]],
        [good.encode(), pixels, b"more"],
        [good.encode()],
        [good.encode().replace(b"uint16", b"object"), pixels],
        [good.encode().replace(b"[512,1024]", b"[51200,102400]"), pixels],
    ]
    with Publisher() as peer, ImageStream(peer.endpoints[0]) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        for message in bad:
            peer.send(0, *message)
        peer.send(0, good.encode(), pixels)
        peer.send(0, good.encode(), pixels)
        wait_for(lambda: stream.counters["duplicate"] == 1, "the duplicate")
        frame = queue.get(60)
        assert stream.counters["unparsable"] == len(bad) and stream.counters["complete"] == 1
        assert (frame.event_id, frame.om_event_id) == ("5", "1")
        assert np.array_equal(frame.image.ravel(), PIXELS)


def test_standard_daq_stream_when_headers_are_json_or_packed_then_frames_come_with_their_ids():
    json_header = b'{"htype":"array-1.0","shape":[2,3],"type":"uint16","frame":122}'
    packed = [struct.pack("<QQQHHH", number, 2, 3, 24, number == 124, 7) for number in (123, 124)]
    image = np.arange(6, dtype="f4")
    with Publisher() as peer, ImageStream(peer.endpoints[0]) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        peer.send(0, json_header, image.astype("u2"))
        for text in packed:
            peer.send(0, text, image)
        frames = collect(queue, 3)
    assert [(f.event_id, f.pulse_id, f.is_good) for f in frames] == [
        ("122", None, True),
        ("123", None, True),
        ("124", None, False),
    ]
    assert [f.image.dtype for f in frames] == ["u2", "f4", "f4"]
    assert all(np.array_equal(f.image.ravel(), image) for f in frames)

"""A wire format of its own on the common stream: one part per message, no ring, no pixels."""

from __future__ import annotations

from collections import Counter

import zmq

from sfdaq_ophyd.clients._intake import Intake
from sfdaq_ophyd.clients.ring import Full
from sfdaq_ophyd.clients.stream import FrameStream
from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire.frame import Frame

from .stream_peers import Publisher


class Words(Intake):
    """Each message is the name of a frame; there is room for one frame at a time."""

    def __init__(self, endpoints, deliver, on_free):
        super().__init__(endpoints)
        self.counters = Counter(received=0, unparsable=0, foreign=0, flushed=0)
        self.room, self.n_tried, self.ended = True, 0, False
        self._deliver, self._on_free = deliver, on_free

    def announce(self, message):
        if len(message.parts) != 1:
            raise WireError(f"{len(message.parts)} parts, expected 1")
        message.head = bytes(message.parts[0].buffer).decode()
        self.ended = self.ended or message.head == "end"
        self.counters["received"] += 1
        return message.head != "end"

    def put(self, message):
        self.n_tried += 1
        if not self.room:
            raise Full
        self.room = False
        self._deliver(Frame(None, message.arrival, message.head))

    def make_room(self):
        self.room = True
        self._on_free()

    def taken(self, message):
        return None

    def begin_mark(self):
        pass

    def flush_through(self, message):
        pass

    @property
    def hold_left(self):
        return float("inf")

    def release(self):
        pass


class WordStream(FrameStream[Frame]):
    def _new_intake(self, on_free):
        return Words(self.endpoints, self._deliver, on_free)


def test_stream_of_another_format_when_there_is_no_room_then_messages_wait_and_none_is_lost(wait_for):
    with (
        Publisher(push=True) as peer,
        WordStream(peer.endpoints, timeout=60, socket_type=zmq.PULL, high_water=1) as stream,
    ):
        frames, intake = stream.frames(), stream._intake
        stream.wait_connected(60)
        for parts in ([b"0"], [b"of", b"two parts"], [b"1"], [b"\xff"], [b"2"], [b"end"]):
            peer.send(0, *parts)
        assert frames.get(60).event_id == "0"
        for n_tried, name in ((2, "1"), (4, "2")):
            wait_for(lambda n=n_tried: intake.n_tried >= n, "the next one to find no room")
            intake.make_room()
            assert frames.get(60).event_id == name
        wait_for(lambda: intake.ended, "the end")
        assert stream.counters == {"received": 4, "unparsable": 2, "foreign": 0, "flushed": 0}

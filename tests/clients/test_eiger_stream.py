"""The Eiger's stream: captured messages and hand-made ones, sent by a PUSH socket as the detector has it."""

from __future__ import annotations

import lzma
import re

import numpy as np
import pytest
import zmq

from sfdaq_ophyd.clients import EigerStream
from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire import cbor
from sfdaq_ophyd.wire.compression import ArrayBytes

SERIES = "01HRCJF83SA63WH8M5X1VBKFJM"


class Control:
    """The stream's side of a detector control unit: a bound PUSH socket."""

    def __init__(self, hwm: int = 1000):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.set(zmq.SNDHWM, hwm)
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"

    def send(self, *parts: bytes) -> None:
        self._socket.send_multipart(parts)

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exc_info) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def control():
    with Control() as control:
        yield control


@pytest.fixture
def stream(control):
    with EigerStream(control.endpoint, timeout=60.0) as stream:
        stream.wait_connected(60)
        yield stream


@pytest.fixture
def captured(data_dir):
    """The messages of a whole series: start, ten images, end."""
    names = sorted((data_dir / "eiger" / "stream2" / "maxiv_1m").glob("*.cbor*"))
    return [lzma.decompress(p.read_bytes()) if p.suffix == ".xz" else p.read_bytes() for p in names]


def image(k: int, *, series: str = "A", number: int = 1, pixels: object = None, **more: object) -> bytes:
    pixels = np.full((4, 6), k, "<u2") if pixels is None else pixels
    fields = {
        **{"type": "image", "series_id": number, "series_unique_id": series, "image_id": k},
        **{"real_time": [1, 100], "series_date": cbor.Date("2026-01-02T03:04:05.678+01:00")},
        **{"start_time": [k, 100], "stop_time": [k + 1, 100], "data": {"threshold_1": pixels}},
    }
    return cbor.encode(fields | more)


def start(*, series: str = "A", number: int = 1, shape: tuple[int, int] = (4, 6), **more: object) -> bytes:
    fields = {"type": "start", "series_id": number, "series_unique_id": series, "channels": ["threshold_1"]}
    fields |= {"image_size_y": shape[0], "image_size_x": shape[1], "number_of_images": 9}
    return cbor.encode(fields | more)


def end(*, series: str = "A", number: int = 1) -> bytes:
    return cbor.encode({"type": "end", "series_id": number, "series_unique_id": series})


def test_stream_when_a_captured_series_comes_then_frames_with_their_own_times(
    control, stream, captured, wait_for
):
    queue = stream.frames()
    for message in captured:
        control.send(message)
    frames = [queue.get(60) for _ in range(10)]
    assert [frame.image_id for frame in frames] == list(range(10))
    assert [frame.event_id for frame in frames[:2]] == ["16_0", "16_1"]
    assert frames[0].timestamp == 1709819015.2 and frames[9].timestamp == pytest.approx(
        1709819024.19992168, abs=1e-6
    )
    assert all(frame.has_detector_time and frame.series_uid == SERIES for frame in frames)
    assert frames[0].real_time == 49716627 / 5e7
    pixels = frames[9].pixels
    assert pixels.shape == frames[9].packed["image"].shape == (1065, 1030)
    assert pixels[pixels != 2**32 - 1].sum() == 51206
    wait_for(lambda: stream.series[SERIES].ended, "the end of the series")
    series = stream.series[SERIES]
    assert (series.n_images, series.missing(10), series.start.number_of_images) == (10, [], 10)


@pytest.mark.parametrize(
    ("order", "missing", "n_duplicates"),
    [
        ([0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11], [3], 0),
        ([0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11], [], 1),
        ([0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10, 11], [], 0),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [], 0),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 10], [], 0),
    ],
    ids=["lost", "twice", "swapped", "no start", "end too early"],
)
def test_stream_when_messages_are_lost_or_moved_then_known_by_number(
    control, stream, captured, wait_for, order, missing, n_duplicates
):
    for k in order:
        control.send(captured[k])
    wait_for(lambda: stream.counters["received"] == len(order), "all messages")
    series = stream.series[SERIES]
    assert (series.missing(10), stream.counters["duplicate"], series.ended) == (missing, n_duplicates, True)
    assert (series.start is None) == (0 not in order)


def test_stream_when_the_unit_restarts_then_the_same_number_is_another_series(control, stream, wait_for):
    for message in (
        start(series="A"),
        image(0, series="A"),
        start(series="B"),
        image(0, series="B"),
        end(series="B"),
    ):
        control.send(message)
    wait_for(lambda: stream.counters["received"] == 5, "all messages")
    assert {name: (s.n_images, s.ended) for name, s in stream.series.items()} == {
        "A": (1, True),
        "B": (1, True),
    }


UNIQUE_IDS = {
    "the end of another one of the same number": ([start(), image(0), end(series="B")], "A1s B0e"),
    "a start that comes twice": ([start(), image(0), start(), image(1), end()], "A2se"),
    "an image after the end": ([start(), end(), image(0)], "A1se"),
    "an image after the next start": ([start(), start(series="B", number=2), image(0)], "A1se B0s"),
    "no start": ([image(0), image(1), end()], "A2e"),
    "no start, and no end": ([image(0), start(series="B"), image(0, series="B")], "A1e B1s"),
    "another number of the same one": ([start(), image(0), image(1, number=2), end(number=3)], "A2se"),
    "an id that is used again": ([start(), image(0), end(), start(), image(0), image(1)], "A2se"),
    "the longest id": ([image(0, series="X" * 64)], "X" * 64 + "1"),
    "more series than are remembered": (
        [image(0, series=s) for s in "ABCDEFGHIJ"],
        "C1 D1 E1 F1 G1 H1 I1 J1",
    ),
}


@pytest.mark.parametrize("messages", list(UNIQUE_IDS))
def test_stream_when_unique_ids_are_odd_then_images_belong_to_the_series_of_theirs(
    control, stream, wait_for, messages
):
    sent, found = UNIQUE_IDS[messages]
    for message in sent:
        control.send(message)
    control.send(b"")
    wait_for(lambda: stream.counters["unparsable"], "all messages")
    told = [f"{s.unique_id}{s.n_images}{'s' * bool(s.start)}{'e' * s.ended}" for s in stream.series.values()]
    assert " ".join(told) == found


@pytest.mark.parametrize("odd", [None, "", "X" * 65, "a\nb", 7])
def test_stream_when_an_image_has_no_unique_id_then_refused_and_counted(control, stream, wait_for, odd):
    for message in (image(0, series_unique_id=odd), start(series_unique_id=odd), end(series=odd)):
        control.send(message)
    wait_for(lambda: stream.counters["unparsable"] == 3, "all messages")
    assert not stream.series and not stream.counters["images"]


def test_stream_when_messages_are_wrong_then_counted_and_the_next_frame_comes(
    control, stream, data_dir, caplog
):
    queue = stream.frames()
    folder = data_dir / "eiger" / "stream2" / "made"
    for name in ("truncated", "unknown_type", "wrong_length", "header_lies", "missing_field"):
        control.send((folder / f"edge_{name}.cbor").read_bytes())
    control.send(image(1), b"a second part")
    for image_id in (7, 8):
        control.send(image(image_id)[:-7])
    control.send(b"")
    control.send(image(2))
    assert queue.get(60).image_id == 2
    counted = {name: n for name, n in stream.counters.items() if n}
    assert counted == {"received": 10, "images": 1, "refused": 2, "unknown": 1, "unparsable": 8}
    told = [record.getMessage() for record in caplog.records if "that begin with" in record.getMessage()]
    assert len(told) == 7, "each kind once"
    assert all(message.rpartition(" ")[2].startswith("d9d9f7") for message in told[:6])
    assert stream.series["01KDYT0000000000000000TEST"].refused[0].startswith("data of threshold_1")


def test_stream_when_a_frame_is_not_of_its_series_shape_then_refused(control, stream, wait_for):
    control.send(start(shape=(5, 6)))
    control.send(image(0))
    wait_for(lambda: stream.counters["refused"] == 1, "the refusal")
    series = stream.series["A"]
    assert series.missing(1) == [0] and "expected (5, 6)" in series.refused[0]


def test_stream_when_two_thresholds_come_then_both_images(control, stream):
    queue = stream.frames()
    more = {"data": {"threshold_1": np.ones((4, 6), "<u2"), "threshold_2": np.zeros((4, 6), "<u2")}}
    control.send(image(0, **more))
    frame = queue.get(60)
    assert (frame.pixels == 1).all() and (np.asarray(frame.packed["image_2"]) == 0).all()


PIXELS = np.ones((4, 6), "<u2")
CUT = ArrayBytes((4, 6), np.dtype("<u2"), "bslz4", 2, memoryview(b"too short"))
TWO = {"channels": ["threshold_1", "threshold_2"]}


@pytest.mark.parametrize(
    ("begun", "data", "images", "lacks"),
    [
        (TWO, {"threshold_2": PIXELS}, {"image_2"}, "image: threshold_1 did not come"),
        (TWO, {"threshold_1": PIXELS}, {"image"}, "image_2: threshold_2 did not come"),
        (None, {"threshold_2": PIXELS}, {"image_2"}, "image: threshold_1 did not come"),
        (
            TWO,
            {"threshold_1": CUT, "threshold_2": PIXELS},
            {"image_2"},
            "image: data of threshold_1: bslz4 pre",
        ),
        (
            TWO,
            {"threshold_1": PIXELS, "threshold_2": CUT},
            {"image"},
            "image_2: data of threshold_2: bslz4 pre",
        ),
        (
            TWO,
            {"threshold_1": PIXELS, "threshold_2": PIXELS.T},
            {"image"},
            "image_2: threshold_2 of (6, 4), exp",
        ),
        (TWO, {"threshold_1": PIXELS, "threshold_2": PIXELS}, {"image", "image_2"}, ""),
        ({}, {"default": PIXELS}, {"image"}, ""),
    ],
)
def test_stream_when_a_threshold_is_missing_or_wrong_then_the_other_comes_and_it_is_named(
    control, stream, begun, data, images, lacks
):
    queue = stream.frames()
    stream.channels = ("threshold_1", "threshold_2")
    if begun is not None:
        control.send(start(**begun))
    control.send(image(0, data=data))
    frame = queue.get(60)
    assert set(frame.packed) == images and frame.is_good == (not lacks)
    assert frame.lacks.startswith(lacks) and bool(frame.lacks) == bool(lacks)
    assert stream.counters["refused"] == bool(lacks) and stream.series["A"].missing(1) == []
    if "image" not in images:
        with pytest.raises(WireError, match="frame 1_0: image: "):
            _ = frame.pixels


def test_stream_when_no_threshold_is_right_then_the_frame_is_missing_and_both_are_named(
    control, stream, wait_for
):
    control.send(start(**TWO))
    control.send(image(0, data={"threshold_1": CUT, "threshold_2": PIXELS.T}))
    wait_for(lambda: stream.counters["refused"] == 1, "the refusal")
    assert stream.series["A"].missing(1) == [0] and not stream.counters["images"]
    assert re.match("data of threshold_1: .*; threshold_2 of ", stream.series["A"].refused[0])


def test_stream_when_no_date_is_sent_then_the_time_is_the_arrival(control, stream, data_dir):
    queue = stream.frames()
    control.send((data_dir / "eiger" / "stream2" / "made" / "edge_missing_date.cbor").read_bytes())
    frame = queue.get(60)
    assert not frame.has_detector_time and frame.timestamp == frame.received


def test_stream_when_another_client_takes_turns_then_it_looks_shared(control, captured, wait_for):
    with EigerStream(control.endpoint) as one, EigerStream(control.endpoint) as other:
        one.wait_connected(60)
        other.wait_connected(60)
        wait_for(lambda: _both_get(control, one, other), "both to be sent messages")
        for message in captured:
            control.send(message)
        wait_for(lambda: one.counters["images"] + other.counters["images"] == 10, "all images")
        halves = [set(range(10)) - set(s.series[SERIES].missing(10)) for s in (one, other)]
        assert halves[0] | halves[1] == set(range(10)) and not halves[0] & halves[1]
        assert one.series[SERIES].looks_shared and other.series[SERIES].looks_shared


def _both_get(control, one, other) -> bool:
    """Both are peers of the sender only a moment after their connections are up."""
    before = one.counters["unparsable"], other.counters["unparsable"]
    control.send(b"?")
    control.send(b"?")
    return one.counters["unparsable"] > before[0] and other.counters["unparsable"] > before[1]


def test_stream_when_frames_are_kept_then_memory_is_bounded_and_the_sender_keeps_the_rest(control, wait_for):
    pixels = np.zeros((512, 512), "<u2")  # 0.5 MiB, uncompressed
    with EigerStream(control.endpoint, max_bytes=2 << 20, max_hold=600) as stream:
        stream.wait_connected(60)
        queue = stream.frames()
        for k in range(12):
            control.send(image(k, pixels=pixels))
        held = [queue.get(60) for _ in range(3)]
        wait_for(lambda: stream.counters["received"] == 4, "a message that waits for room")
        assert stream.counters["images"] == 3
        held.clear()
        rest = [queue.get(60).image_id for _ in range(9)]
        assert rest == list(range(3, 12)) and stream.counters["dropped"] == 0


def test_stream_when_frames_are_kept_for_too_long_then_dropped_and_missing(control, wait_for):
    pixels = np.zeros((512, 512), "<u2")
    with EigerStream(control.endpoint, max_bytes=1 << 20, max_hold=0.0) as stream:
        stream.wait_connected(60)
        queue = stream.frames()
        for k in range(4):
            control.send(image(k, pixels=pixels))
        wait_for(lambda: stream.counters["received"] == 4, "all messages")
        series = stream.series["A"]
        assert series.missing(4) == [1, 2, 3] and "no room" in series.refused[3]
        del queue


def test_tables_when_a_series_follows_the_next_then_those_of_the_newest_two_are_kept(
    control, stream, wait_for
):
    for k in range(4):
        mask = {"threshold_1": np.full((4, 6), k, "<u4")}
        control.send(start(series="ABCD"[k], number=k, pixel_mask=mask))
    wait_for(lambda: stream.counters["received"] == 4 and len(stream.series) == 4, "all starts")
    wait_for(lambda: stream.series["D"].start is not None, "the last one")
    kept = {name: {*map(int, np.unique(t.unpack()))} for name in "CD" for t in tables_of(stream, name)}
    assert kept == {"C": {2}, "D": {3}} and not tables_of(stream, "A") and not tables_of(stream, "B")


def tables_of(stream, name):
    return [*stream.series[name].start.tables.values()]

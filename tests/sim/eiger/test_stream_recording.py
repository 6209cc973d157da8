"""Recorded series, sent by the simulated detector's stream."""

from __future__ import annotations

import lzma

import pytest

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.wire import cbor
from sfdaq_ophyd.wire.eiger_stream import decode_message

from .conftest import Rest, arm, take


@pytest.fixture
def maxiv(data_dir):
    return data_dir / "eiger" / "stream2" / "maxiv_1m"


def read(path):
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


@pytest.fixture
def replay(make_part, make_pull):
    """Start a detector that replays a folder; its REST interface and the client of its stream."""

    def start(folder, **options):
        rest = Rest(make_part(initialized=True, stream_replay=folder, **options))
        rest.stream(frame_time=0.002)
        return rest, make_pull(rest)

    return start


def test_recording_when_sent_as_it_is_then_byte_for_byte_and_once(replay, maxiv):
    rest, pull = replay(maxiv, stream_replay_as_is=True)
    take(rest, nimages=12)
    expected = [read(path) for path in sorted(maxiv.glob("*.cbor*"))]
    assert [pull.parts() for _ in expected] == [[data] for data in expected]
    assert pull.silent() and rest.value("stream/status/dropped") == 0


def test_recording_when_renewed_then_of_the_series_that_was_armed_with_the_recorded_pixels(replay, maxiv):
    rest, pull = replay(maxiv)
    for series_id in (1, 2):
        assert arm(rest, nimages=6, ntrigger=2) == series_id
        for _ in range(2):
            rest.command("detector/command/trigger")
        start, *frames, end = pull.series()
        assert {message["series_id"] for message in (start, *frames, end)} == {series_id}
        unique_id = rest.value("detector/status/series_unique_id")
        assert {message["series_unique_id"] for message in (start, *frames, end)} == {unique_id}
        assert start["number_of_images"] == 12 and len(start["user_data"]) == 377
        assert [frame["image_id"] for frame in frames] == list(range(12))
    times = [decode_message(cbor.encode(frame)).time_ns for frame in frames]
    assert all(b > a for a, b in zip(times, times[1:])) and frames[0]["start_time"][0] == 0
    for k in (0, 9, 10):
        recorded = decode_message(read(maxiv / f"{k % 10 + 1:02d}_image.cbor")).data["threshold_1"]
        assert frames[k]["data"]["threshold_1"].data == recorded.data


def test_recording_when_a_fault_is_named_then_it_happens_to_it(replay, maxiv):
    rest, pull = replay(maxiv)
    rest.part.fail_next("lost_image", image_id=1)
    take(rest, nimages=3)
    assert [frame["image_id"] for frame in pull.series()[1:-1]] == [0, 2]


def test_recording_when_there_is_none_then_refused_with_the_folder(make_part, tmp_path):
    with pytest.raises(RequestError, match="stream_replay"):
        make_part(stream_replay=tmp_path)
    (tmp_path / "00_start.cbor").write_bytes(b"\x00")
    with pytest.raises(RequestError, match="stream_replay"):
        make_part(stream_replay=tmp_path)

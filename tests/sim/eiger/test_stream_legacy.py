"""The stream of the simulated detector, version 1, and a published receiver that reads it."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json

import numpy as np
import pytest

from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire.compression import ArrayBytes, prefix
from sfdaq_ophyd.wire.simplon import decode_darray

from .conftest import Rest, arm, images, take


@pytest.fixture
def legacy(rest, make_pull):
    """The only client of `rest`'s stream of version 1, which is enabled."""
    rest.set("stream/config/mode", "enabled")
    return make_pull(rest, legacy=True)


def run(rest, pull, nimages=1):
    """Take one series; its messages, as parts."""
    take(rest, nimages)
    messages = [pull.parts()]
    while json.loads(messages[-1][0])["htype"] != "dseries_end-1.0":
        messages.append(pull.parts())
    return messages


def pixels(parts):
    """Return the image of a message, shape (y, x)."""
    about, data = json.loads(parts[1]), bytes(parts[2])
    dtype, shape, encoding = np.dtype(about["type"]), tuple(about["shape"][::-1]), about["encoding"]
    if encoding == "lz4<":  # one block, without what says how large it is
        n_bytes = dtype.itemsize * shape[0] * shape[1]
        data = prefix(n_bytes, n_bytes) + len(data).to_bytes(4, "big") + data
    algorithm = {"<": "none", "lz4<": "lz4"}.get(encoding, "bslz4")
    return ArrayBytes(
        shape, dtype, algorithm, dtype.itemsize if algorithm == "bslz4" else 0, memoryview(data)
    ).unpack()


def table(parts, k):
    """Return the table that part `k` of a header describes, and the next one holds."""
    about = json.loads(parts[k])
    return np.frombuffer(parts[k + 1], about["type"]).reshape(about["shape"][::-1])


@pytest.mark.parametrize(
    ("algorithm", "frame_time", "encoding"),
    [
        ("bslz4", 0.002, "bs16-lz4<"),
        ("bslz4", 0.02, "bs32-lz4<"),
        ("lz4", 0.0003, "lz4<"),
        ("none", 0.002, "<"),
    ],
)
def test_series_when_streamed_in_version_1_then_the_monitors_pixels_in_the_real_ones_words(
    rest, legacy, algorithm, frame_time, encoding
):
    rest.set("detector/config/compression", algorithm)
    rest.set("detector/config/frame_time", frame_time)
    start, *frames, end = run(rest, legacy, nimages=3)
    assert json.loads(start[0]) == {"header_detail": "basic", "htype": "dheader-1.0", "series": 1}
    assert json.loads(end[0]) == {"htype": "dseries_end-1.0", "series": 1} and len(end) == 1
    for k, (parts, seen) in enumerate(zip(frames, images(rest, 3), strict=True)):
        head, about, blob, times = parts
        digest = hashlib.md5(about).hexdigest()
        assert json.loads(head) == {"frame": k, "hash": digest, "htype": "dimage-1.0", "series": 1}
        name = seen.image.dtype.name
        expected = {"htype": "dimage_d-1.0", "shape": [48, 32], "size": len(blob), "type": name}
        assert json.loads(about) == {"encoding": encoding, **expected}
        np.testing.assert_array_equal(pixels(parts), seen.image)
        assert set(json.loads(times)) == {"htype", "real_time", "start_time", "stop_time"}


def test_header_when_details_are_chosen_then_as_many_parts_as_the_real_one_has(rest, legacy):
    rest.set("stream/config/header_appendix", '{"filename": "", "rotate": 0}')
    rest.set("stream/config/image_appendix", {"x": 1})
    numbers = {}
    for detail in ("none", "basic", "all"):
        rest.set("stream/config/header_detail", detail)
        start, frame, _ = run(rest, legacy)
        numbers[detail] = len(start)
        assert json.loads(frame[4]) == {"x": 1}
    assert numbers == {"none": 1, "basic": 2, "all": 9}, "the appendix with all alone"
    said = run(rest, legacy)[0]
    kinds = [json.loads(said[k])["htype"] for k in (0, 2, 4, 6)]
    assert kinds == ["dheader-1.0", "dflatfield-1.0", "dpixelmask-1.0", "dcountrate_table-1.0"]
    assert json.loads(said[8]) == {"filename": "", "rotate": 0}
    np.testing.assert_array_equal(table(said, 4), decode_darray(rest.value("detector/config/pixel_mask")))
    true, measured = table(said, 6).T
    assert true.shape == (4000,) and (measured <= true).all()


def test_header_when_compared_to_the_recorded_one_then_it_has_the_same_names(rest, legacy, data_dir):
    recorded = json.loads((data_dir / "eiger/stream2/maxiv_1m_v1/header_part2.json").read_bytes())
    said = json.loads(run(rest, legacy)[0][1])
    assert set(said) == set(recorded)
    assert {k: type(said[k]) for k in said} == {k: type(recorded[k]) for k in said}


def test_times_when_in_version_1_then_ns_since_initialize_in_steps_of_20(rest, legacy):
    rest.set("detector/config/frame_time", 0.004)
    frames = [json.loads(parts[3]) for parts in run(rest, legacy, nimages=4)[1:-1]]
    starts = [frame["start_time"] for frame in frames]
    assert starts[0] > 0 and all(b > a for a, b in zip(starts, starts[1:]))
    assert {start % 20 for start in starts} == {0}
    assert {frame["stop_time"] - frame["start_time"] for frame in frames} == {frames[0]["real_time"]}


def has_client(part):
    async def has_room():
        return part.detector.stream._sockets["legacy"].has_room

    return asyncio.run_coroutine_threadsafe(has_room(), part._running).result(60)


@pytest.mark.skipif(
    importlib.util.find_spec("libertem_dectris") is None,
    reason="libertem-dectris has no build here",
)
@pytest.mark.filterwarnings("ignore:decompress_frame_stack is deprecated")
@pytest.mark.parametrize("algorithm", ["bslz4", "lz4"])
def test_libertem_dectris_when_it_receives_a_series_then_every_frame_in_order(
    make_part, wait_for, tmp_path, algorithm
):
    import libertem_dectris

    rest = Rest(make_part(initialized=True))
    rest.set("stream/config/mode", "enabled")
    rest.set("detector/config/compression", algorithm)
    rest.set("detector/config/frame_time", 0.002)
    receiver = libertem_dectris.DectrisConnection(
        uri=rest.part.stream_legacy_endpoint,
        handle_path=str(tmp_path / "shm"),
        frame_stack_size=8,
        num_slots=32,
        bytes_per_frame=32 * 48 * 4,
        huge=False,
    )
    try:
        receiver.start_passive(60.0)
        wait_for(lambda: has_client(rest.part), "connected")
        series_id = arm(rest, nimages=20)
        config, series = receiver.wait_for_arm(60.0)
        assert (config.get_num_frames(), series) == (20, series_id)
        client = libertem_dectris.CamClient(receiver.get_socket_path())
        rest.command("detector/command/trigger")
        stamps = []
        while (stack := receiver.get_next_stack(max_size=8)) is not None:
            frames = np.zeros((len(stack), *reversed(stack.get_shape())), stack.get_dtype_string())
            client.decompress_frame_stack(stack, out=frames)
            client.done(stack)
            stamps += [read_stamp(frame) for frame in frames]
        client.close()
    finally:
        receiver.close()
    assert stamps == [rest.part.stamp_of(series_id, k) for k in range(20)]

"""Frames as a detector compressed them: their bytes are the chunks, several rows are written together."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.errors import ShapeError
from sfdaq_ophyd.files import frame_file, storage
from sfdaq_ophyd.files.frame_file import IMAGE, FrameFile
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire import cbor, compression, eiger_stream
from sfdaq_ophyd.wire.frame import Frame, FrameFormat, MissingFrame

from .test_frame_file import FORMAT, frame, numbers, stored


def array_of(image, algorithm="bslz4"):
    """Return pixels as a detector's message has them."""
    pack = {
        "bslz4": compression.compress_bslz4,
        "lz4": compression.compress_lz4,
        "none": lambda image: memoryview(image).cast("B"),
    }[algorithm]
    size = image.itemsize if algorithm == "bslz4" else 0
    return cbor.ArrayBytes(image.shape, image.dtype, algorithm, size, memoryview(bytes(pack(image))))


def packed_frame(number):
    """Like `frame`, as a detector compressed it."""
    alike = frame(number)
    fields = {name: getattr(alike, name) for name in Frame.__slots__}
    return Frame(**fields | {"image": None, "packed": {"image": array_of(alike.image)}})


@pytest.mark.parametrize("kept", ["bslz4", "lz4", "none"])
@pytest.mark.parametrize("came", ["bslz4", "lz4", "none"])
def test_append_when_frames_come_compressed_then_those_bytes_are_the_chunks(path, came, kept):
    images = [np.random.default_rng(k).poisson(2, (20, 30)).astype("<u2") for k in range(3)]
    file = FrameFile(path, FrameFormat((20, 30), "<u2", compression=kept))
    packed = [array_of(image, came) for image in images]
    for k, array in enumerate(packed):
        file.append(Frame(None, float(k), str(k), packed={"image": array}))
    file.close()
    with h5py.File(path) as read:
        found = read[IMAGE]
        np.testing.assert_array_equal(found[()], images)
        if came == kept:
            chunks = [bytes(found.id.read_direct_chunk((k, 0, 0))[1]) for k in range(3)]
            assert chunks == [bytes(array.data) for array in packed]


def test_append_when_a_captured_frame_of_16_million_pixels_comes_then_the_same_chunk_and_pixels(
    path, data_dir
):
    message = (data_dir / "eiger" / "stream2" / "diamond_16m" / "image.cbor").read_bytes()
    array = eiger_stream.decode_message(message).data["threshold_1"]
    file = FrameFile(path, FrameFormat(array.shape, array.dtype))
    file.append(Frame(None, 1.0, "15614_0", packed={"image": array}))
    file.close()
    with h5py.File(path) as read:
        assert bytes(read[IMAGE].id.read_direct_chunk((0, 0, 0))[1]) == bytes(array.data)
        pixels = read[IMAGE][0]
    assert pixels[1020, 3189] == 6504 and np.count_nonzero(pixels == 65535) == 1253075


@pytest.mark.parametrize(("shape", "dtype"), [((20, 31), "<u2"), ((20, 30), "<u4")])
def test_append_when_a_compressed_frame_is_of_another_format_then_refused(path, shape, dtype):
    file = FrameFile(path, FrameFormat((20, 30), "<u2"))
    array = cbor.ArrayBytes(shape, np.dtype(dtype), "none", 0, memoryview(bytes(9)))
    with pytest.raises(ShapeError, match="was announced"):
        file.append(Frame(None, 0.0, "1", packed={"image": array}))
    file.close()


def test_append_when_chunks_come_fast_then_their_ids_are_written_together(path, monkeypatch):
    written = []
    append = frame_file._append
    monkeypatch.setattr(
        frame_file,
        "_append",
        lambda column, values, place: written.append(len(values)) or append(column, values, place),
    )
    monkeypatch.setattr(frame_file, "TOGETHER", float("inf"))
    file = FrameFile(path, FORMAT)
    for k in range(40):
        file.append(packed_frame(k))
    assert written == [] and file.n_frames == 40
    assert file.flush(wait=False) == 40
    assert set(written) == {40}
    file.close()
    assert numbers(path) == list(range(40))


def test_append_when_chunks_are_large_or_old_then_none_waits_for_many_others(path, monkeypatch):
    file = FrameFile(path, FORMAT)
    monkeypatch.setattr(frame_file, "TOGETHER", float("inf"))
    monkeypatch.setattr(frame_file, "TOGETHER_BYTES", 5 * len(packed_frame(0).packed["image"].data))
    waiting = []
    for k in range(20):
        file.append(packed_frame(k))
        waiting.append(len(file._pending))
    assert 1 < max(waiting) < 10
    monkeypatch.setattr(frame_file, "TOGETHER", 0.0)
    file.append(packed_frame(20))
    file.append(packed_frame(21))
    assert not file._pending
    file.close()
    assert numbers(path) == list(range(22))


@pytest.mark.parametrize("refused", [False, True])
def test_append_when_much_is_new_then_the_system_is_told_once_to_begin_writing_it(path, monkeypatch, refused):
    begun = []

    def advise(descriptor, start, length, advice):
        begun.append((start, start + length))
        if refused:
            raise OSError("not here")

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(storage, "WRITEBACK_BYTES", 20_000)
    file = FrameFile(path, FORMAT)
    for k in range(400):
        file.append(packed_frame(k))
        file.flush()
    assert len(begun) > 1
    assert all(stop - start >= 20_000 for start, stop in begun)
    assert [start for start, _ in begun] == [0, *(stop for _, stop in begun[:-1])]
    assert path.stat().st_size - begun[-1][1] < 40_000
    file.close()
    assert numbers(path) == list(range(400))


@given(
    st.lists(
        st.one_of(st.sampled_from(["packed", "pixels", "missing", "flush"]), st.integers(0, 8)), max_size=30
    )
)
@settings(max_examples=25, deadline=None)
def test_append_when_chunks_pixels_and_gaps_are_mixed_then_rows_stay_in_order(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("mixed") / "frames.h5"
    file, expected = FrameFile(path, FORMAT), []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            file.truncate(min(step, len(expected)))
            expected = expected[: min(step, len(expected))]
        elif step == "flush":
            assert file.flush() == len(expected)
        else:
            make = {"packed": packed_frame, "pixels": frame, "missing": lambda n: MissingFrame(str(n))}[step]
            file.append(make(number))
            expected.append(None if step == "missing" else number)
    file.flush()
    with h5py.File(path, "r", swmr=True) as read:
        ids = read["entry/data/event_id"][()].tolist()
        found = [read_stamp(image) if there else None for image, there in zip(read[IMAGE], ids)]
    file.close()
    assert found == expected
    assert ids == [b"" if n is None else f"7:{n}".encode() for n in expected]


@pytest.mark.parametrize("packed", [True, False])
def test_append_when_pixels_are_big_endian_then_they_read_back_equal(path, packed):
    image = np.arange(600, dtype=">u2").reshape(20, 30)
    file = FrameFile(path, FrameFormat((20, 30), ">u2"))
    if packed:
        file.append(Frame(None, 1.0, "1", packed={"image": array_of(image)}))
    else:
        file.append(Frame(image, 1.0, "1"))
    file.close()
    np.testing.assert_array_equal(stored(path)["data"], [image])

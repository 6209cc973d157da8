"""CBOR and the compression of arrays: true to the byte, bounded, hostile bytes refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire import cbor, compression
from sfdaq_ophyd.wire.compression import ArrayBytes
from sfdaq_ophyd.wire.eiger_stream import decode_message

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40).map(lambda text: text.encode("utf-8", "ignore").decode()),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_é", max_size=30), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(VALUES)
def test_cbor_when_encoded_then_decoded_to_the_same(value):
    decoded = cbor.decode(cbor.encode({"value": value}))["value"]
    assert decoded == value and type(decoded) is type(value)


@pytest.mark.parametrize(
    ("value", "as_sent"),
    [(0.0, "f90000"), (8000.0, "f96fd0"), (0.1, "fb3fb999999999999a"), (1e10, "fa501502f9"), (1, "01")],
)
def test_cbor_when_float_then_shortest_and_never_an_integer(value, as_sent):
    assert cbor.encode(value)[3:].hex() == as_sent


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("9a7fffffff", "items or bytes"),
        ("5a7fffffff00", "items or bytes"),
        ("a2616101616102", "a key twice"),
        ("81" * 40 + "00", "nested deeper"),
        ("a10102", "key '1'"),
        ("5f4100ff", "definite length"),
        ("8200ff", "simple value 31"),
        ("0000", "the first item takes 1"),
        ("", "end in the middle"),
        ("61ff", "UTF-8"),
        ("d84c4100", "tag 76"),
        ("d8454100" + "00", "multiple of 2"),
        ("d9dcb401", "tag 56500"),
        ("d828820102", "tag 40"),
    ],
)
def test_cbor_when_bytes_are_hostile_then_named(data, words):
    with pytest.raises(WireError, match=words):
        cbor.decode(bytes.fromhex(data))


def test_cbor_when_items_are_too_many_then_refused_before_they_are_made():
    row = b"\x99\xff\xff" + bytes(65535)
    with pytest.raises(WireError, match="items"):
        cbor.decode(b"\x98\xff" + 255 * row)


def test_cbor_when_lengths_are_indefinite_then_read():
    assert cbor.decode(bytes.fromhex("bf6161 9f0102ff ff".replace(" ", ""))) == {"a": [1, 2]}


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u4", "<i8", "i1", "<f4", ">f8"])
def test_cbor_when_array_of_any_kind_then_the_same_numbers(dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    found = cbor.decode(cbor.encode(array))
    np.testing.assert_array_equal(found.unpack(), array)
    assert found.dtype == array.dtype


# ---- compression


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 64), (129, 257)])
@pytest.mark.parametrize("algorithm", ["bslz4", "lz4"])
def test_compression_when_undone_then_the_same(dtype, shape, algorithm):
    image = np.random.default_rng(1).poisson(2, shape).astype(dtype)
    pack = {"bslz4": compression.compress_bslz4, "lz4": compression.compress_lz4}[algorithm]
    data = memoryview(bytes(pack(image)))
    element_size = image.itemsize if algorithm == "bslz4" else 0
    found = ArrayBytes(shape, image.dtype, algorithm, element_size, data).unpack()
    np.testing.assert_array_equal(found, image)
    for cut in (data[:-1], memoryview(bytes(data) + b"\0")):
        with pytest.raises(WireError):
            ArrayBytes(shape, image.dtype, algorithm, element_size, cut).unpack()
        with pytest.raises(WireError, match=f"{algorithm}: [0-9]+ blocks end at byte"):
            ArrayBytes(shape, image.dtype, algorithm, element_size, cut).check_blocks()


def test_compression_when_bytes_end_with_a_block_before_the_last_then_refused():
    image = np.arange(6000, dtype="<u2").reshape(60, 100)
    data = memoryview(bytes(compression.compress_bslz4(image, 1024)))
    at, n_blocks = 12, 0
    while at < len(data):
        with pytest.raises(WireError, match="6 blocks end at byte"):
            ArrayBytes(image.shape, image.dtype, "bslz4", 2, data[:at]).unpack()
        at, n_blocks = at + 4 + int.from_bytes(data[at : at + 4], "big"), n_blocks + 1
    assert n_blocks == 6


def test_blocks_when_walked_by_compiled_code_then_the_same_verdicts():
    image = np.random.default_rng(1).poisson(2, (64, 64)).astype("<u2")
    data = memoryview(bytes(compression.compress_bslz4(image, 64)))
    last = len(data) - 4 - int.from_bytes(data[-4:], "big")
    cases = [data, *(data[:n] for n in (12, 14, 40, last, len(data) - 1)), memoryview(bytes(data) + b"x")]

    def verdicts():
        arrays = [ArrayBytes(image.shape, image.dtype, "bslz4", 2, case) for case in cases]
        return [str(_raised(array.check_blocks)) for array in arrays]

    compression.compiled_walk.cache_clear()
    plain = verdicts()
    compression.compiled_walk()
    assert verdicts() == plain and plain[0] == "None" and "None" not in plain[1:]


def _raised(function):
    try:
        function()
    except WireError as exc:
        return exc


def test_compression_when_a_detectors_frame_is_made_again_then_the_captured_bytes(data_dir):
    captured = (data_dir / "eiger" / "stream2" / "diamond_16m" / "image.cbor").read_bytes()
    array = decode_message(captured).data["threshold_1"]
    assert compression.compress_bslz4(array.unpack(), 4096) == array.data


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_compression_when_bytes_are_bent_then_the_size_is_right_or_refused(data):
    image = np.arange(300, dtype="<u2").reshape(15, 20)
    algorithm, element_size, pack = data.draw(
        st.sampled_from([("bslz4", 2, compression.compress_bslz4), ("lz4", 0, compression.compress_lz4)])
    )
    bent = bytearray(pack(image))
    for _ in range(data.draw(st.integers(1, 5))):
        bent[data.draw(st.integers(0, len(bent) - 1))] = data.draw(st.integers(0, 255))
    try:
        array = ArrayBytes(image.shape, image.dtype, algorithm, element_size, memoryview(bytes(bent)))
        found = array.unpack()
    except WireError:
        return
    assert found.shape == image.shape

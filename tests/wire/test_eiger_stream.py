"""The Eiger's stream: captured messages decoded to their known values and encoded to the same bytes.

The files of tests/data/eiger/stream2 are copies of captures; its README says of which detectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire import cbor, compression
from sfdaq_ophyd.wire.eiger_stream import (
    FrameRefused,
    LegacyEnd,
    SeriesEnd,
    SeriesImage,
    SeriesStart,
    UnknownMessage,
    date_text,
    decode_legacy,
    decode_message,
    encode_message,
)

CAPTURED = [
    "diamond_16m/image.cbor",
    "diamond_16m/end.cbor",
    "maxiv_1m/00_start.cbor.xz",
    *(f"maxiv_1m/{k:02d}_image.cbor" for k in range(1, 11)),
    "maxiv_1m/11_end.cbor",
]
MADE = ["two_channels_bslz4_lz4", "uncompressed_u32", "edge_unknown_tag", "edge_missing_date"]


@pytest.fixture
def folder(data_dir):
    return data_dir / "eiger" / "stream2"


def message(folder, name):
    data = (folder / name).read_bytes()
    return lzma.decompress(data) if name.endswith(".xz") else data


def known(folder, name):
    made = json.loads((folder / "made" / "expected.json").read_text())
    captured = json.loads((folder / "expected.json").read_text())
    return captured.get(name) or made[name.removeprefix("made/").removesuffix(".cbor")]


@pytest.mark.parametrize(
    "name", [*CAPTURED, "made/two_channels_bslz4_lz4.cbor", "made/uncompressed_u32.cbor"]
)
def test_encode_when_decoded_before_then_the_same_bytes(folder, name):
    data = message(folder, name)
    assert encode_message(cbor.decode(data)) == data


@pytest.mark.parametrize("name", [*CAPTURED[3:13], CAPTURED[0], *(f"made/{name}.cbor" for name in MADE)])
def test_decode_when_image_then_ids_times_and_pixels_are_the_known_ones(folder, name):
    image, right = decode_message(message(folder, name)), known(folder, name)
    fields = right.get(
        "fields", {"series_id": 7, "series_unique_id": "01KDYT0000000000000000TEST", "image_id": 0}
    )
    assert isinstance(image, SeriesImage)
    for key in ("series_id", "series_unique_id", "image_id"):
        assert getattr(image, key) == fields[key]
    if "frame_time_utc_ns" in right or "missing_date" in name:
        assert image.time_ns == right.get("frame_time_utc_ns")
    for key in ("start_time", "stop_time", "real_time"):
        if key in fields:
            assert getattr(image, key) == tuple(fields[key])
    for channel, array in fields.get("data", {}).items():
        pixels = image.data[channel].unpack()
        masked = pixels == np.iinfo(pixels.dtype).max
        assert pixels.dtype.name == array["dtype"] and list(pixels.shape) == array["shape"]
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == array["sha256_pixels_le_rowmajor"]
        assert np.count_nonzero(masked) == array["masked"]
        assert pixels[~masked].sum(dtype="u8") == array["sum_unmasked"]


def test_decode_when_start_then_channels_tables_and_user_data(folder):
    start = decode_message(message(folder, "maxiv_1m/00_start.cbor.xz"))
    assert isinstance(start, SeriesStart)
    assert (start.series_id, start.number_of_images, start.channels) == (16, 10, ("threshold_1",))
    assert (start.shape, start.dtype) == ((1065, 1030), None)
    assert isinstance(start.user_data, str) and len(start.user_data) == 377
    values, counts = np.unique(start.tables["pixel_mask/threshold_1"].unpack(), return_counts=True)
    assert dict(zip(values, counts)) == {0: 1058820, 1: 38110, 2: 12, 4: 3, 16: 5}
    lookup = start.tables["countrate_correction_lookup_table"].unpack()
    assert lookup[1748] == 3897 and (lookup[1749:] == 2**32 - 1).all()
    assert float(start.tables["flatfield/threshold_1"].unpack().max()) == pytest.approx(26.7367687)


@pytest.mark.parametrize(
    "name", ["diamond_16m/start.cbor", "made/start.cbor", "made/start_ints_and_absent.cbor"]
)
def test_decode_when_start_is_not_as_a_detector_sends_it_then_read(folder, name):
    start, right = decode_message(message(folder, name)), known(folder, name)["fields"]
    assert start.channels == tuple(right["channels"])
    assert start.shape == (right["image_size_y"], right["image_size_x"])
    assert start.fields["incident_energy"] == right["incident_energy"]
    assert start.tables == {}


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("header_lies", FrameRefused, "bslz4 prefix of 1099511627776 bytes, expected 120"),
        ("wrong_length", FrameRefused, "118 bytes, expected 120"),
        ("unknown_algorithm", FrameRefused, "compression='zstd'"),
        ("missing_field", WireError, "image_id"),
        ("truncated", WireError, "expected at most 94"),
        ("unknown_type", UnknownMessage, "calibration"),
    ],
)
def test_decode_when_a_message_is_wrong_then_refused_by_name(folder, name, error, words):
    with pytest.raises(error, match=words) as caught:
        decode_message(message(folder, f"made/edge_{name}.cbor"))
    assert type(caught.value) is error
    if error is FrameRefused:
        assert (caught.value.image_id, caught.value.series) == (0, "01KDYT0000000000000000TEST")


def test_decode_when_end_then_its_series(folder):
    assert decode_message(message(folder, "maxiv_1m/11_end.cbor")) == SeriesEnd(
        16, "01HRCJF83SA63WH8M5X1VBKFJM"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("series_id", -1), ("series_id", True), ("series_id", "7"), ("series_unique_id", ""), ("image_id", 1.0)],
)
def test_decode_when_an_id_is_wrong_then_the_error_names_it(folder, field, value):
    fields = cbor.decode(message(folder, "made/uncompressed_u32.cbor"))
    with pytest.raises(WireError, match=field):
        decode_message(encode_message(fields | {field: value}))


ODD = (
    None,
    True,
    -1,
    2**63,
    float("nan"),
    "",
    "x",
    [],
    [[]],
    [2**63, 0],
    {},
    {"x": [1]},
    b"abcd",
    cbor.Date("x"),
)


@pytest.mark.parametrize("name", ["made/start", "made/two_channels_bslz4_lz4", "made/end"])
def test_decode_when_any_field_is_of_another_kind_then_taken_or_an_error_of_ours(folder, name):
    fields = cbor.decode(message(folder, f"{name}.cbor")) | {"pixel_mask": {}, "flatfield": None}
    for field in fields:
        for value in ODD:
            with contextlib.suppress(WireError):
                decode_message(encode_message(fields | {field: value}))


@pytest.mark.parametrize(("dtype", "expected"), [("uint16", "<u2"), ("int32", "<i4")])
def test_decode_when_start_tells_the_type_of_images_then_known_signed_ones_too(folder, dtype, expected):
    fields = cbor.decode(message(folder, "made/start.cbor"))
    assert decode_message(encode_message(fields | {"image_dtype": dtype})).dtype == np.dtype(expected)
    with pytest.raises(WireError, match="image_dtype='float8', expected one of uint8"):
        decode_message(encode_message(fields | {"image_dtype": "float8"}))


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_legacy_when_any_field_is_of_another_kind_then_taken_or_an_error_of_ours(folder, part):
    images, headers = (
        legacy(folder, *(f"{kind}_part{k}" for k in kinds))
        for kind, kinds in (
            ("frame0", ("1.json", "2.json", "3.bin", "4.json")),
            ("header", ("1.json", "2.json", "7.json", "8.bin")),
        )
    )
    for parts in (images, headers):
        with contextlib.suppress(ValueError):
            fields = json.loads(parts[part])
            for field in fields:
                for value in (*ODD[:12], [-1, 2], [2**40, 2**40], [1.5, 2]):
                    bent = json.dumps(fields | {field: value}).encode()
                    with contextlib.suppress(WireError):
                        decode_legacy([*parts[:part], bent, *parts[part + 1 :]])


@pytest.mark.parametrize("offset", ["Z", "+00:00", "-03:30"])
@pytest.mark.parametrize(("decimals", "ns"), [("", 0), (".5", 500_000_000), (".123456789", 123_456_789)])
def test_decode_when_date_has_any_decimals_then_ns(folder, offset, decimals, ns):
    fields = cbor.decode(message(folder, "made/uncompressed_u32.cbor"))
    hours = {"-03:30": 3.5}.get(offset, 0.0)
    when = cbor.Date(f"2024-03-07T14:43:35{decimals}{offset}")
    image = decode_message(encode_message(fields | {"series_date": when, "start_time": [0, 1]}))
    assert image.time_ns == 1709822615 * 10**9 + int(hours * 3600) * 10**9 + ns


def test_time_when_ticks_pass_64_bits_of_ns_then_exact(folder):
    fields = cbor.decode(message(folder, "made/uncompressed_u32.cbor"))
    later = decode_message(encode_message(fields | {"start_time": [10**12 + 1, 50_000_000]}))
    first = decode_message(encode_message(fields | {"start_time": [0, 50_000_000]}))
    assert later.time_ns - first.time_ns == 20_000 * 10**9 + 20


def test_date_when_written_then_read_again():
    assert date_text(1709819015_200_999_999) == "2024-03-07T13:43:35.200+00:00"


# ---- CBOR


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
    data, item = memoryview(bytes(pack(image))), image.itemsize
    element_size = item if algorithm == "bslz4" else 0
    found = compression.decompress(algorithm, element_size, data, shape, image.dtype)
    np.testing.assert_array_equal(found, image)
    for cut in (data[:-1], memoryview(bytes(data) + b"\0")):
        with pytest.raises(WireError):
            compression.decompress(algorithm, element_size, cut, shape, image.dtype)
        with pytest.raises(WireError, match=f"{algorithm}: [0-9]+ blocks end at byte"):
            compression.check_blocks(algorithm, cut, image.nbytes, item)


def test_compression_when_bytes_end_with_a_block_before_the_last_then_refused():
    image = np.arange(6000, dtype="<u2").reshape(60, 100)
    data = memoryview(bytes(compression.compress_bslz4(image, 1024)))
    at, n_blocks = 12, 0
    while at < len(data):
        with pytest.raises(WireError, match="6 blocks end at byte"):
            compression.decompress("bslz4", 2, data[:at], image.shape, image.dtype)
        at, n_blocks = at + 4 + int.from_bytes(data[at : at + 4], "big"), n_blocks + 1
    assert n_blocks == 6


def test_compression_when_a_detectors_frame_is_made_again_then_the_captured_bytes(folder):
    array = decode_message(message(folder, "diamond_16m/image.cbor")).data["threshold_1"]
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
        found = compression.decompress(
            algorithm, element_size, memoryview(bytes(bent)), image.shape, image.dtype
        )
    except WireError:
        return
    assert found.shape == image.shape


# ---- version 1


def legacy(folder, *names):
    return [(folder / "maxiv_1m_v1" / name).read_bytes() for name in names]


def test_legacy_when_image_then_the_known_pixels(folder):
    image = decode_legacy(
        legacy(folder, "frame0_part1.json", "frame0_part2.json", "frame0_part3.bin", "frame0_part4.json")
    )
    pixels = image.data.unpack()
    masked = pixels == 2**32 - 1
    assert (image.series_id, image.image_id, image.real_time) == (14, 0, 994339020)
    assert (pixels.shape, masked.sum(), pixels[~masked].sum()) == ((1065, 1030), 38310, 9)


def test_legacy_when_header_then_config_tables_and_appendix(folder):
    flatfield, mask = bytes(4 * 1065 * 1030), bytes(4 * 1065 * 1030)  # left out of the capture for their size
    parts = legacy(
        folder, *(f"header_part{k}.json" for k in (1, 2, 3)), "header_part5.json", "header_part7.json"
    )
    parts = [
        *parts[:3],
        flatfield,
        parts[3],
        mask,
        parts[4],
        *legacy(folder, "header_part8.bin", "header_part9.json"),
    ]
    start = decode_legacy(parts)
    assert (start.series_id, start.header_detail, start.config["nimages"]) == (14, "all", 100000)
    assert {name: array.shape for name, array in start.tables.items()} == {
        "flatfield": (1065, 1030),
        "pixelmask": (1065, 1030),
        "countrate_table": (4000, 2),
    }
    assert start.appendix == {"filename": "", "rotate": 0}


@pytest.mark.parametrize("encoding", ["<", "lz4<", "bs16-lz4<"])
def test_legacy_when_encoding_is_any_then_the_pixels(encoding):
    image = np.random.default_rng(1).poisson(2, (20, 30)).astype("<u2")
    data = {
        "<": image.tobytes(),
        "lz4<": compression.compress_lz4(image)[16:],
        "bs16-lz4<": bytes(compression.compress_bslz4(image)),
    }[encoding]
    about = {"encoding": encoding, "htype": "dimage_d-1.0", "shape": [30, 20], "size": 1, "type": "uint16"}
    times = {"htype": "dconfig-1.0", "real_time": 1, "start_time": 2, "stop_time": 3}
    head = {"frame": 3, "hash": "", "htype": "dimage-1.0", "series": 1}
    found = decode_legacy(
        [json.dumps(head).encode(), json.dumps(about).encode(), data, json.dumps(times).encode()]
    )
    np.testing.assert_array_equal(found.data.unpack(), image)


def test_legacy_when_end_then_its_series():
    assert decode_legacy([b'{"htype":"dseries_end-1.0","series":14}']) == LegacyEnd(14)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"type": "float64"}, "type"), ({"encoding": "zstd<"}, "encoding"), ({"shape": [9, 0]}, "0")],
)
def test_legacy_when_a_part_is_wrong_then_named(folder, change, words):
    parts = legacy(folder, "frame0_part1.json", "frame0_part2.json", "frame0_part3.bin", "frame0_part4.json")
    parts[1] = json.dumps(json.loads(parts[1]) | change).encode()
    with pytest.raises(WireError, match=words):
        decode_legacy(parts)

"""The Eiger's stream: captured messages decoded to their known values and encoded to the same bytes.

The files of tests/data/eiger/stream2 are copies of captures; its README says of which detectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import re

import numpy as np
import pytest

from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire import cbor, compression
from sfdaq_ophyd.wire.eiger_stream import (
    FrameRefused,
    LegacyEnd,
    SeriesEnd,
    SeriesImage,
    SeriesStart,
    UnknownMessage,
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


def matrix(shape, algorithm, data):
    return compression.ArrayBytes(shape, np.dtype("<u4"), algorithm, 0, memoryview(data))


TERABYTE = compression.prefix(1 << 42, 1 << 30) + bytes(4 << 12)
"""What LZ4 says that is decompressed into 4 TiB, and its blocks are all there."""


@pytest.mark.parametrize(
    "tables",
    [
        {"countrate_correction_lookup_table": np.zeros(0, "<u4")},
        {"countrate_correction_lookup_table": matrix((-1,), "lz4", compression.prefix(0, 1 << 20))},
        {"pixel_mask": {"threshold_1": np.zeros(0, "<u4")}},
        {"pixel_mask": {"threshold_1": matrix((1 << 20, 1 << 20), "lz4", TERABYTE)}},
        *({"pixel_mask": {name: np.ones((4, 6), "<u4")}} for name in ("", "a\0", "a/b", ".", "..", "/")),
        {"flatfield": {f"threshold_{k}": np.ones((4, 6), "<f4") for k in range(200)}},
    ],
)
def test_decode_when_a_table_of_the_start_has_no_place_in_a_file_then_left_out_and_the_others_stay(
    folder, tables
):
    fields = cbor.decode(message(folder, "made/start.cbor"))
    good = {
        "pixel_mask": {"threshold_1": np.ones((4, 6), "<u4")},
        "flatfield": {"t-2.x": np.ones((4, 6), "<f4")},
    }
    start = decode_message(encode_message(fields | good | tables))
    assert set(start.tables) == {
        f"{table}/{channel}" for table in good.keys() - tables.keys() for channel in good[table]
    }


def test_check_when_an_array_is_larger_than_any_then_refused_before_memory_is_taken():
    array = matrix((1 << 20, 1 << 20), "lz4", TERABYTE)
    for checked in (array.check, array.unpack):
        with pytest.raises(WireError, match=f"an array of {1 << 42} bytes, expected at most"):
            checked()


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


@pytest.mark.parametrize(
    ("array", "words"),
    [
        ("d84c4100", "tag 76, expected an array"),
        ("d828828218061806d8454100", "1 bytes of uint16"),
        ("d828828218061806d84ed9dcb401", "tag 56500 with int"),
        ("d82801", "tag 40 with int"),
        ("01", "int', expected rows"),
    ],
)
def test_decode_when_one_array_makes_no_sense_then_the_frame_has_its_id_and_the_others(array, words):
    good = cbor.encode({"threshold_1": np.ones((6, 6), "<u2")})[4:]  # without tag and head of the map
    head = cbor.encode({"type": "image", "series_id": 7, "series_unique_id": "U", "image_id": 3, "data": 0})[
        :-1
    ]
    broken = b"\x6bthreshold_2" + bytes.fromhex(array)
    image = decode_message(head + b"\xa2" + good + broken)
    assert isinstance(image, SeriesImage) and list(image.data) == ["threshold_1"]
    assert re.search(words, image.refused["threshold_2"])
    with pytest.raises(FrameRefused, match=f"image 3 of series U: .*data of threshold_2.*{words}"):
        decode_message(head + b"\xa1" + broken)


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

"""Monitor TIFFs: golden files decoded and written byte for byte; hostile bytes refused."""

from __future__ import annotations

import hashlib
import json
import statistics
import struct
import time

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.errors import RequestError, WireError
from sfdaq_ophyd.wire import tiff
from sfdaq_ophyd.wire.tiff_write import PROFILES, TiffTags, encode, frame_around

PRIVATE_NAMES = {
    "IfdVersion": "ifd_version",
    "SeriesUniqueId": "series_unique_id",
    "SeriesNumber": "series_id",
    "ImageNumber": "image_id",
    "ImageDateTime": "date_time",
    "ThresholdId": "threshold_id",
    "ThresholdEnergy": "threshold_energy_ev",
    "ExposureTime": "exposure_time",
    "IncidentEnergy": "incident_energy_ev",
    "IncidentWavelength": "wavelength_angstrom",
    "LostPixelCount": "n_lost_pixels",
    "BeamCenter": "beam_center",
    "DetectorDistance": "detector_distance",
}

TAGS = TiffTags(
    series_id=7,
    image_id=42,
    series_unique_id="01HXV58VJYZ4N6P8QRAVBCDEFG",
    time_ns=1715677196123456789,
    offset_minutes=120,
    threshold_energy_ev=6350.0,
    exposure_time=0.0999999,
    incident_energy_ev=12700.0,
    wavelength_angstrom=0.976252122,
    beam_center=(2074.25, 2181.5),
    detector_distance=0.3765,
)


@pytest.fixture(scope="module")
def golden(request, data_dir):
    """Name to (bytes, expectation) of every TIFF of a recording."""
    folder = request.config.getoption("--recordings") or data_dir / "eiger"
    if not (folder / "tiff_expected.json").exists():
        folder = folder / "eiger"
    if not (folder / "tiff_expected.json").exists():
        pytest.skip(f"no tiff_expected.json in {folder}")
    expected = json.loads((folder / "tiff_expected.json").read_text())
    return {name: ((folder / name).read_bytes(), facts) for name, facts in expected.items()}


def profile_of(facts):
    if facts.get("private") is None:
        return "legacy16"
    return "v2024" if facts["private"]["ImageDateTime"].endswith("Z") else "om"


def test_decode_when_given_each_golden_file_then_pixels_and_ids_are_as_expected(golden):
    for name, (data, facts) in golden.items():
        frame = tiff.decode(data)
        assert frame.image.shape == tuple(facts["shape_rows_cols"]), name
        assert frame.image.dtype == np.dtype(facts["dtype"]), name
        assert hashlib.sha256(frame.image.tobytes()).hexdigest() == facts["pixel_bytes_sha256"], name
        assert int(frame.image.sum(dtype="u8")) == facts["pixel_sum"], name
        for place, value in facts["probe_pixels"].items():
            assert frame.image[tuple(map(int, place.split(",")))] == value, (name, place)
        private = facts.get("private") or {}
        assert frame.private == {PRIVATE_NAMES[key]: value for key, value in private.items()}, name
        assert (frame.series_id is not None) == (frame.image_id is not None) == bool(private), name
        if private:
            assert (frame.series_id, frame.image_id) == (private["SeriesNumber"], private["ImageNumber"])


def test_encode_when_given_the_golden_values_then_every_byte_is_the_same(golden):
    for name, (data, facts) in golden.items():
        frame, private = tiff.decode(data), facts.get("private") or {}
        tags = private and TiffTags(
            series_id=private["SeriesNumber"],
            image_id=private["ImageNumber"],
            series_unique_id=private["SeriesUniqueId"],
            time_ns=frame.time_ns,
            offset_minutes=120,
            threshold_id=private["ThresholdId"],
            threshold_energy_ev=private["ThresholdEnergy"],
            exposure_time=private["ExposureTime"],
            incident_energy_ev=private["IncidentEnergy"],
            wavelength_angstrom=private.get("IncidentWavelength", 0.0),
            n_lost_pixels=private["LostPixelCount"],
            beam_center=tuple(private.get("BeamCenter", (0, 0))),
            detector_distance=private.get("DetectorDistance", 0.0),
        )
        assert encode(frame.image, tags or None, profile_of(facts)) == data, name


def test_decode_when_the_time_is_in_either_form_then_it_is_whole_nanoseconds(golden):
    times = {profile_of(facts): tiff.decode(data).time_ns for data, facts in golden.values()}
    if set(times) == {"om", "v2024", "legacy16"}:
        assert times == {"om": 1715677196123000000, "v2024": 1715677196123456789, "legacy16": None}


def test_om_fixed_offsets_when_read_from_what_we_write_then_give_ids_and_time():
    data = encode(np.zeros((32, 48), "u4"), TAGS, "om")
    series_id, _, _, frame_id = struct.unpack_from("<4i", data, 42)
    assert (series_id, frame_id) == (7, 42)
    assert data[162:191] == b"2024-05-14T10:59:56.123+02:00"


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("profile", PROFILES)
def test_encode_when_read_by_tifffile_then_the_pixels_are_the_same(tmp_path, dtype, profile):
    image = np.arange(7 * 11, dtype=dtype).reshape(7, 11)
    path = tmp_path / "frame.tif"
    path.write_bytes(encode(image, TAGS, profile))
    np.testing.assert_array_equal(tifffile.imread(path), image)


def test_decode_when_done_then_the_image_is_a_view_of_the_bytes():
    data = encode(np.arange(600, dtype="u4").reshape(20, 30), TAGS)
    image = tiff.decode(data).image
    assert np.shares_memory(image, np.frombuffer(data, "u1"))


def test_decode_when_the_frame_is_a_thousand_times_larger_then_it_takes_no_longer():
    large, small = (encode(np.zeros(shape, "u2"), TAGS) for shape in ((3000, 1000), (30, 100)))

    def used(data: bytes) -> float:
        before = time.thread_time()
        for _ in range(50):
            tiff.decode(data)
        return time.thread_time() - before

    ratios = [used(large) / used(small) for _ in range(21)]
    assert statistics.median(ratios) < 5


def put(data: bytes, at: int, layout: str, *values) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, at, *values)
    return bytes(changed)


def main_entry(data: bytes, tag: int) -> int:
    """File offset of the entry of a main-IFD tag."""
    (offset,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, offset)
    entries = range(offset + 2, offset + 2 + 12 * count, 12)
    return next(at for at in entries if struct.unpack_from("<H", data, at) == (tag,))


GOOD = encode(np.arange(48, dtype="u2").reshape(6, 8), TAGS)
MAIN = struct.unpack_from("<I", GOOD, 4)[0]
NEXT_IFD = MAIN + 2 + 12 * 11


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a little-endian TIFF"),
        (b"<html><body>no</body></html>", "not a little-endian TIFF"),
        (b"MM\0*" + GOOD[4:], "not a little-endian TIFF"),
        (GOOD[:-1], "truncated TIFF: 463 bytes, the strip ends at 464"),
        (GOOD[:100], "truncated TIFF"),
        (put(GOOD, 4, "<I", 2**31), "truncated TIFF: main IFD"),
        (put(GOOD, main_entry(GOOD, 256) + 8, "<I", 2**31), "with a strip of 96 bytes"),
        (put(GOOD, main_entry(GOOD, 258) + 8, "<H", 12), "12 bits per sample"),
        (put(GOOD, main_entry(GOOD, 259) + 8, "<H", 5), "compression 5"),
        (put(GOOD, main_entry(GOOD, 273) + 8, "<I", 10**6), "truncated TIFF"),
        (put(GOOD, main_entry(GOOD, 256) + 8, "<I", 0), "6 rows and 0 columns"),
        (put(GOOD, main_entry(GOOD, 339) + 8, "<H", 3), "not one unsigned sample"),
        (put(GOOD, main_entry(GOOD, 256), "<H", 254), "tag 256 (image width) is None"),
        (put(GOOD, NEXT_IFD, "<I", MAIN), "loops back"),
        (put(GOOD, main_entry(GOOD, 51192) + 8, "<I", MAIN), "loops back to the main IFD"),
        (put(GOOD, main_entry(GOOD, 51192) + 8, "<I", 10**7), "truncated TIFF: private IFD"),
        (put(GOOD, MAIN, "<H", 60000), "with 60000 entries"),
        (GOOD.replace(b"2024-05-14T10", b"2024-99-14T10"), "not a time"),
    ],
)
def test_decode_when_the_bytes_are_wrong_then_the_error_says_what(data, words):
    with pytest.raises(WireError) as info:
        tiff.decode(data)
    assert words in str(info.value)


def test_decode_when_the_ids_are_absent_then_they_are_none():
    frame = tiff.decode(encode(np.zeros((4, 8), "u4"), None, "om"))
    assert (frame.series_id, frame.image_id, frame.time_ns, frame.private) == (None, None, None, {})


def test_decode_when_a_private_tag_is_unknown_then_it_is_kept_by_number():
    at = GOOD.index(struct.pack("<HHI", 0x0012, 4, 1))
    frame = tiff.decode(put(GOOD, at, "<H", 0x0099))
    assert frame.private[0x0099] == 0 and "n_lost_pixels" not in frame.private


@given(st.binary(max_size=400))
@settings(max_examples=400, deadline=None)
def test_decode_when_given_any_bytes_then_only_wire_error_is_raised(data):
    try:
        tiff.decode(b"II*\0" + data)
    except WireError:
        pass


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 4), st.integers(0, 2**32 - 1)), min_size=1, max_size=4))
@settings(max_examples=400, deadline=None)
def test_decode_when_any_words_are_changed_then_only_wire_error_is_raised(changes):
    data = GOOD
    for at, value in changes:
        data = put(data, at, "<I", value)
    try:
        image = tiff.decode(data).image
    except WireError:
        return
    assert image.nbytes <= len(data)


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(["u1", "u2", "u4"]),
    profile=st.sampled_from(PROFILES),
    series_id=st.integers(0, 2**32 - 1),
    image_id=st.integers(0, 2**32 - 1),
    time_ms=st.integers(0, 4 * 10**12),
)
@settings(max_examples=150, deadline=None)
def test_encode_when_decoded_again_then_nothing_has_changed(
    shape, dtype, profile, series_id, image_id, time_ms
):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    tags = TiffTags(series_id, image_id, "0" * 26, time_ms * 10**6)
    frame = tiff.decode(encode(image, tags, profile))
    np.testing.assert_array_equal(frame.image, image)
    if profile != "legacy16":
        assert (frame.series_id, frame.image_id, frame.time_ns) == (series_id, image_id, time_ms * 10**6)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: encode(np.zeros((3, 4)), TAGS), "image"),
        (lambda: encode(np.zeros(4, "u2"), TAGS), "image"),
        (lambda: frame_around((3, 4), 12, "om", TAGS), "bit_depth"),
        (lambda: frame_around((3, 4), 16, "pilatus", TAGS), "profile"),
    ],
)
def test_encode_when_an_argument_is_wrong_then_the_error_names_it(call, field):
    with pytest.raises(RequestError, match=field):
        call()


def test_decode_array_when_it_is_a_mask_or_a_flatfield_then_its_numbers_come_back():
    mask = np.array([[0, 1, 2**31], [3, 0, 2**32 - 1]], "<u4")
    assert (tiff.decode_array(encode(mask)) == mask).all()
    flatfield = np.array([[1.0, 0.5, 2.0]], "<f4")
    unsigned, floating = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (1, 3))
    raw = encode(flatfield.view("<u4")).replace(unsigned, floating)
    assert tiff.decode_array(raw).dtype == np.dtype("<f4") and (tiff.decode_array(raw) == flatfield).all()
    with pytest.raises(WireError, match="unsigned sample"):
        tiff.decode(raw)

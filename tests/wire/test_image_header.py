import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire.image_header import ImageHeader

from ..jungfrau_recordings import assembled_messages


@pytest.fixture(scope="module")
def records():
    """Ours, whatever else is recorded."""
    return list(assembled_messages(None))


def test_encode_when_given_what_was_decoded_then_the_captured_bytes_come_back(pytestconfig):
    captured = [record["header"] for record in assembled_messages(pytestconfig) if record["parts"]]
    assert captured
    for text in captured:
        assert ImageHeader.decode(text.encode()).encode().decode() == text


def test_decode_when_captured_then_sizes_agree_and_placeholders_are_known(pytestconfig):
    for record in assembled_messages(pytestconfig):
        header = ImageHeader.decode(record["header"].encode())
        if record["parts"]:
            assert header.n_bytes == record["parts"][1]
            assert header.placeholder == (record["parts"][1] == 8)


def test_decode_when_no_module_was_complete_then_there_is_no_pulse_id(records):
    headers = [ImageHeader.decode(record["header"].encode()) for record in records]
    empty = [header for header in headers if header.frame_number == 0]
    assert empty and all(header.pulse_id is None and not header.is_good for header in empty)
    assert all(header.daq_rec is None for header in empty)
    assert all(header.daq_rec is not None for header in headers[:-2] if header.frame_number)


def test_decode_when_analysis_added_fields_then_all_are_carried_untouched(records):
    text = records[-2]["header"]
    header = ImageHeader.decode(text.encode())
    assert header.dtype == np.float32 and header.shape == (1614, 1030)
    sent = json.loads(text)
    own = {"frame", "shape", "type", "htype", "is_good_frame", "pulse_id", "daq_rec", "detector_name"}
    assert header.extra == {key: value for key, value in sent.items() if key not in own}
    assert header.extra["roi_intensities_normalised"] == [3.25]


def test_decode_when_a_module_is_off_then_its_map_is_carried(records):
    header = ImageHeader.decode(records[-1]["header"].encode())
    assert header.extra["module_map"] == [0, -1, 1] and header.shape == (1024, 1024)


def test_decode_when_from_the_standard_daq_live_stream_then_only_frame_and_shape_are_known():
    header = ImageHeader.decode(b'{"htype":"array-1.0", "shape":[512,1024], "type":"uint16", "frame":77}')
    assert (header.frame_number, header.shape, header.pulse_id, header.daq_rec) == (
        77,
        (512, 1024),
        None,
        None,
    )
    assert header.is_good


PACKED = {
    1: "u1",
    2: "u2",
    4: "u4",
    8: "u8",
    11: "i1",
    12: "i2",
    14: "i4",
    18: "i8",
    22: "f2",
    24: "f4",
    28: "f8",
}


@pytest.mark.parametrize(("code", "dtype"), PACKED.items())
def test_decode_when_packed_then_dtype_and_status_are_read(code, dtype):
    header = ImageHeader.decode(struct.pack("<QQQHHH", 2**40, 512, 1024, code, 1, 3))
    assert header.dtype == np.dtype(dtype) and header.shape == (512, 1024) and header.frame_number == 2**40
    assert not header.is_good and header.extra == {"status": 1, "source_id": 3}


def test_decode_when_a_packed_image_id_begins_like_json_then_it_is_packed_all_the_same():
    for number in (123, 123 + 256, ord("{") + (ord('"') << 8)):
        assert ImageHeader.decode(struct.pack("<QQQHHH", number, 2, 3, 2, 0, 0)).frame_number == number
    text = b'{"frame":1,"shape":[512,1024]}'
    assert len(text) == 30 and ImageHeader.decode(text).shape == (512, 1024)


@pytest.mark.parametrize("good", [True, 1, False, 0])
def test_decode_when_is_good_frame_is_a_bool_or_a_number_then_means_the_same(good):
    text = json.dumps({"frame": 1, "shape": [4, 4], "type": "uint16", "is_good_frame": good})
    assert ImageHeader.decode(text.encode()).is_good is bool(good)


@pytest.mark.parametrize(
    ("data", "found", "expected"),
    [
        (b"\x08\x01\x10\x02", "4 bytes", "30 packed bytes (the protobuf form carries no pixels)"),
        (b'{"htype":"bsr_m-1.1"}', "htype='bsr_m-1.1'", "'array-1.0'"),
        (b'{"frame":1}', "shape=None", "a list of 2"),
        (b'{"frame":1,"shape":[512,1024],"type":"O"}', "type='O'", "one of uint8"),
        (b'{"frame":1,"shape":[512,1024],"type":7}', "type=7", "a string"),
        (b'{"frame":1,"shape":[100000,100000],"type":"uint16"}', "shape=[100000, 100000]", "at most"),
        (b'{"frame":1,"shape":[0,7],"type":"uint16"}', "shape=[0, 7]", "at most"),
        (b'{"frame":1.5,"shape":[7,7],"type":"uint16"}', "frame=1.5", "unsigned 64-bit"),
        (b'{"frame":1,"shape":[7,7],"pulse_id":-1}', "pulse_id=-1", "unsigned 64-bit"),
        (struct.pack("<QQQHHH", 1, 512, 1024, 3, 0, 0), "dtype=3", "one of [1, 2"),
    ],
)
def test_decode_when_wrong_then_names_field_value_and_expectation(data, found, expected):
    with pytest.raises(WireError) as error:
        ImageHeader.decode(data)
    assert found in str(error.value) and expected in str(error.value)


@given(
    st.binary(max_size=200) | st.binary(min_size=30, max_size=30) | st.binary(max_size=60).map(b"{".__add__)
)
def test_decode_when_bytes_are_anything_then_only_wire_errors(data):
    try:
        ImageHeader.decode(data)
    except WireError:
        pass

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire.module_header import ModuleHeader, decode_pulse_id, encode_pulse_id

from ..jungfrau_recordings import module_headers, recordings, records


@pytest.fixture(scope="module")
def texts():
    """Ours, whatever else is recorded."""
    return list(module_headers(None))


def test_encode_when_given_what_was_decoded_then_the_captured_text_comes_back(pytestconfig):
    captured = list(module_headers(pytestconfig))
    assert captured
    for text in captured:
        try:
            header = ModuleHeader.decode(text.encode())
        except WireError:  # a quote in a file name, say
            with pytest.raises(ValueError):
                json.loads(text)
            continue
        assert header.encode(old_names="bunchId" in text).decode() == text


def test_decode_when_parsed_by_the_recorder_then_the_fields_are_the_same(pytestconfig):
    lines = [line for path in recordings(pytestconfig, "headers.jsonl") for line in records(path)]
    for sent, text in ((line["header"], line["header_text"]) for line in lines if line["header"]):
        header = ModuleHeader.decode(text.encode())
        assert header.data == bool(sent["data"]) and header.frame_number == sent["frameNumber"]
        if header.data:
            assert (header.row, header.column) == (sent["row"], sent["column"])
            assert header.shape == tuple(sent["shape"][::-1]) and header.n_bytes == sent["size"]
            assert header.pulse_id == decode_pulse_id(sent["detSpec1"]) and header.ticks == sent["timestamp"]
            assert (header.n_packets, header.daq_rec) == (sent["packetNumber"], sent["detSpec3"])


def test_decode_when_captured_then_fields_have_their_meaning(texts):
    headers = [ModuleHeader.decode(text.encode()) for text in texts]
    data = [header for header in headers if header.data]
    assert {header.shape for header in data} == {(512, 1024), (256, 1024)}
    assert {header.detector_blocks for header in data} == {(2, 1), (4, 1)}
    assert {header.n_bytes for header in data} == {1048576, 524288}
    with_extra = next(header for header in data if header.extra)
    assert with_extra.extra == {"run": "12", "sample": "protein_7"}
    assert (with_extra.frame_number, with_extra.pulse_id, with_extra.daq_rec) == (101, 21125820000, 3872)
    as_double = [header for header in data if header.det_spec1 > 2**53]
    assert [header.pulse_id for header in as_double[:1]] == [21125820008]
    assert [not header.data for header in headers] == ['"data":0' in text for text in texts]


def test_decode_when_names_are_of_package_6_then_reads_them_alike(texts):
    old = next(text for text in texts if "bunchId" in text)
    header = ModuleHeader.decode(old.encode())
    assert (header.json_version, header.pulse_id, header.daq_rec, header.rx_roi) == (
        4,
        21125820000,
        3872,
        None,
    )


@pytest.mark.parametrize(
    ("word", "pulse_id"),
    [
        (0, None),
        (1, 1),
        (21125820008, 21125820008),
        (4761339213463420928, 21125820008),
        (2**53 - 1, 2**53 - 1),
        (0x7FF0000000000000, None),  # infinity
        (0x7FF8000000000000, None),  # not a number
        (0xC0F0000000000000, None),  # negative
        (0x3FF8000000000000, None),  # 1.5
        (0x8000000000000000, None),  # -0.0
        (2**64 - 1, None),
    ],
)
def test_pulse_id_when_integer_or_double_then_is_read_and_else_absent(word, pulse_id):
    assert decode_pulse_id(word) == pulse_id


@given(st.integers(1, 2**53 - 1), st.booleans())
def test_pulse_id_when_written_in_either_encoding_then_is_read_back(pulse_id, as_double):
    assert decode_pulse_id(encode_pulse_id(pulse_id, as_double)) == pulse_id


GOOD = (
    '{"jsonversion":5, "shape":[1024, 512], "size":1048576, "frameNumber":7, "row":0, "column":0, "data":1}'
)


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("", "not JSON", ""),
        ("[1, 2]", "a JSON list", "an object"),
        (GOOD[:40], "not JSON", ""),
        (GOOD.replace("}", ', "fname":"/data/"x""}'), "not JSON", ""),
        (GOOD.replace("}", ', "progress":inf}'), "not JSON", ""),
        ("[" * 100_000, "not JSON", ""),
        ('{"a":' + "9" * 10_000 + "}", "not JSON", ""),
        ('"' + "x" * 2**21 + '"', "bytes", "at most 1048576"),
        ('{"htype":"dheader-1.0"}', "shape=None", "a list of 2 unsigned integers"),
        (GOOD.replace(', "frameNumber":7', ""), "frameNumber=None", "an unsigned 64-bit integer"),
        (GOOD.replace(":7", ":-7"), "frameNumber=-7", "an unsigned 64-bit integer"),
        (GOOD.replace(":7", ':"7"'), "frameNumber='7'", "an unsigned 64-bit integer"),
        (GOOD.replace("[1024, 512]", "[4096, 4096]"), "shape=[4096, 4096]", "at most [1024, 512]"),
        (GOOD.replace("[1024, 512]", "[0, 512]"), "shape=[0, 512]", "at most"),
        (GOOD.replace("1048576", "1048577"), "size=1048577", "1048576"),
        (GOOD.replace('"row":0', '"row":1'), "row=1", "a block of detshape [1, 1]"),
        (GOOD.replace("}", ', "bitmode":32}'), "bitmode=32", "16"),
        (GOOD.replace("}", ', "detshape":[100, 100]}'), "detshape=[100, 100]", "1 to 64 blocks"),
        (GOOD.replace("}", ', "addJsonHeader":"x"}'), "addJsonHeader='x'", "an object"),
        (GOOD.replace("}", ', "fname":7}'), "fname=7", "a string"),
    ],
)
def test_decode_when_wrong_then_names_field_value_and_expectation(text, found, expected):
    with pytest.raises(WireError) as error:
        ModuleHeader.decode(text.encode())
    assert found in str(error.value) and expected in str(error.value)


def test_decode_when_keys_are_unknown_then_ignores_them():
    assert ModuleHeader.decode(GOOD.replace("}", ', "new":{"a":[1]}}').encode()).frame_number == 7


@given(st.binary(max_size=300))
def test_decode_when_bytes_are_anything_then_only_wire_errors(data):
    try:
        ModuleHeader.decode(data)
    except WireError:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from(sorted(json.loads(ModuleHeader(rx_roi=(0, 1, 2, 3), extra={"a": "b"}).encode()))),
    json_values,
)
def test_decode_when_any_field_holds_anything_then_only_wire_errors(field, value):
    fields = json.loads(ModuleHeader(rx_roi=(0, 1, 2, 3)).encode())
    fields[field] = value
    try:
        header = ModuleHeader.decode(json.dumps(fields).encode())
    except WireError:
        return
    assert not header.data or (header.n_bytes <= 2**20 and header.frame_number >= 0)


@given(
    st.builds(
        ModuleHeader,
        frame_number=st.integers(0, 2**64 - 1),
        row=st.just(1),
        detector_blocks=st.just((2, 1)),
        complete=st.booleans(),
        n_packets=st.integers(0, 128),
        ticks=st.integers(0, 2**64 - 1),
        det_spec1=st.integers(0, 2**64 - 1),
        daq_rec=st.integers(0, 2**32 - 1),
        json_version=st.just(5),
        rx_roi=st.just((0, 1023, 0, 511)),
    ),
    st.booleans(),
)
def test_header_when_encoded_then_decodes_to_the_same(header, old_names):
    assert ModuleHeader.decode(header.encode(old_names=old_names)) == header


def test_end_message_when_decoded_then_says_so():
    header = ModuleHeader.decode(ModuleHeader.end().encode())
    assert not header.data and header.frame_number == 0

import pytest

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.wire.detector_name import DaqRec, DetectorName


@pytest.mark.parametrize(
    ("text", "name", "n_modules", "shape"),
    [
        ("JF01T03V01", "JF01T03V01", 3, (1536, 1024)),
        ("JF1T3V1", "JF01T03V01", 3, (1536, 1024)),
        ("JF07T32V02", "JF07T32V02", 32, (16384, 1024)),
        ("JF123T04V01", "JF123T04V01", 4, (2048, 1024)),
    ],
)
def test_detector_name_when_valid_then_is_read_and_written_with_two_digits(text, name, n_modules, shape):
    read = DetectorName.parse(text)
    assert (str(read), read.n_modules, read.raw_shape, read.family) == (name, n_modules, shape, name[:-3])


@pytest.mark.parametrize(
    "text", ["", "JF01T03", "JF01T03V01 ", "jf01t03v01", "JF01T00V01", "JF٣T1V1", None, 7, "EG01T03V01"]
)
def test_detector_name_when_wrong_then_value_error_names_it(text):
    with pytest.raises(ValueError, match="JF01T03V01") as error:
        DetectorName.parse(text)
    assert isinstance(error.value, RequestError) and repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        (0, {}),
        (3872, {}),
        (528160, {"picker_open": True}),
        (593696, {"picker_open": True, "laser": True}),
        (1, {"high_gain": True}),
        (0x1000, {"forced_stage": 1}),
        (0x3000, {"forced_stage": 2}),
        (0x2000, {"forced_stage": 2}),
        (1 << 17 | 1 << 16, {"dark_shot": True, "laser": True}),
        (1 << 18 | 1 << 31, {"fel": True}),
    ],
)
def test_daq_rec_when_decoded_then_says_how_the_frame_was_taken(word, fields):
    assert DaqRec.decode(word) == DaqRec(**fields)


def test_laser_on_when_it_was_a_dark_shot_then_is_not():
    assert DaqRec(laser=True).laser_on and not DaqRec(laser=True, dark_shot=True).laser_on


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_daq_rec_when_encoded_then_is_read_back(stage):
    for flags in (
        {"high_gain": True},
        {"laser": True},
        {"dark_shot": True},
        {"fel": True},
        {"picker_open": True},
    ):
        record = DaqRec(forced_stage=stage, **flags)
        assert DaqRec.decode(record.encode()) == record

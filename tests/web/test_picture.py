"""Pictures: which pixel gets which colour, and what they cost."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.web.live_frame import KEPT, LiveFrame
from sfdaq_ophyd.web.picture import (
    BAD,
    N_COLOURS,
    SATURATED,
    SATURATED_COLOUR,
    PictureView,
    coloured,
    draw,
)


def frame_of(image, bad=None, saturated=None):
    nothing = np.zeros(image.shape, bool)
    bad = nothing if bad is None else bad
    return LiveFrame(1, image, bad, nothing if saturated is None else saturated, "counts", "1_1")


def test_colours_when_values_grow_tenfold_then_equal_steps_on_the_log_scale():
    frame = frame_of(np.array([[1, 10, 100, 1000]], "u4"))
    index = coloured(frame, PictureView(low=1, high=1000))[0].astype(int)
    assert index[0, 0] == 0 and index[0, -1] == N_COLOURS - 1
    assert np.ptp(np.diff(index[0])) <= 1


def test_colours_when_linear_then_in_proportion():
    index, *_ = coloured(
        frame_of(np.array([[0, 50, 100]], "u2")), PictureView(scale="linear", low=0, high=100)
    )
    assert index.tolist() == [[0, (N_COLOURS - 1) // 2, N_COLOURS - 1]]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "f4"])
def test_block_when_shrunk_then_shows_its_largest_good_pixel_or_what_is_wrong(dtype):
    image = np.ones((256, 512), "f4").astype(dtype)
    image[1, 1] = 100
    bad, saturated = np.zeros((2, 256, 512), bool)
    bad[0, 0] = bad[2:4, 0:2] = True  # one of a block; all of a block
    saturated[0, 3] = True
    index, *_ = coloured(frame_of(image, bad, saturated), PictureView(side=256, low=1, high=100))
    assert index.shape == (128, 256)
    assert index[0, 0] == N_COLOURS - 1
    assert index[0, 1] == SATURATED
    assert index[1, 0] == BAD
    assert (index[2:] == 0).all()


@settings(deadline=None)  # the machine may be busy
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.tuples(*[st.integers(-50, 60)] * 4),
    st.sampled_from("uif"),
    st.booleans(),
)
def test_picture_when_any_region_is_asked_then_a_png_or_a_request_error(height, width, region, kind, log):
    image = (np.arange(height * width).reshape(height, width) - 5).astype(f"{kind}4")
    view = PictureView(region, scale="log" if log else "linear")
    x0, y0, x1, y1 = max(0, region[0]), max(0, region[1]), min(width, region[2]), min(height, region[3])
    if x0 >= x1 or y0 >= y1:
        with pytest.raises(RequestError, match="region"):
            draw(frame_of(image), view)
        return
    with Image.open(io.BytesIO(draw(frame_of(image), view).png)) as drawn:
        assert drawn.size == (x1 - x0, y1 - y0)


def test_picture_when_all_pixels_are_bad_or_nan_then_drawn():
    image = np.full((4, 4), np.nan, "f4")
    assert (coloured(frame_of(image, np.isnan(image)), PictureView())[0] == BAD).all()


def test_picture_when_decoded_then_saturated_pixels_have_their_colour():
    saturated = np.eye(16, dtype=bool)
    png = draw(frame_of(np.ones((16, 16), "u2"), saturated=saturated), PictureView()).png
    with Image.open(io.BytesIO(png)) as drawn:
        colours = np.asarray(drawn.convert("RGB"))
    assert ((colours == SATURATED_COLOUR).all(-1) == saturated).all()


def test_picture_when_asked_again_then_not_drawn_again():
    frame = frame_of(np.ones((16, 16), "u2"))
    assert draw(frame, PictureView(side=300)) is draw(frame, PictureView(side=380))
    for i in range(KEPT + 5):
        draw(frame, PictureView(low=1, high=2 + i))
    assert len(frame.results) == KEPT


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"colour_map": "jet"}, "colour_map"), ({"scale": "sqrt"}, "scale"), ({"low": 3, "high": 3}, "low")],
)
def test_view_when_wrong_then_the_field_is_named(wrong, field):
    with pytest.raises(RequestError, match=field):
        PictureView(**wrong)


def test_facts_when_some_pixels_do_not_count_then_left_out_of_mean_and_largest():
    image = np.array([[1, 3, 65535, 900]], "u2")
    frame = frame_of(image, image == 65535, image == 900)
    facts = frame.facts
    assert (facts["mean"], facts["max"], facts["n_bad"], facts["n_saturated"]) == (2.0, 3, 1, 1)
    conditions = [frame.pixel(x, 0)["condition"] for x in range(4)]
    assert conditions == ["good", "good", "bad", "saturated"]
    assert frame.pixel(2, 0)["value"] is None and frame.pixel(4, 0) is None

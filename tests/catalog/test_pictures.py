"""Frames as PNG files."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from sfdaq_ophyd.catalog.pictures import draw, good_pixels, limits, write_pictures
from sfdaq_ophyd.errors import RequestError

from .composed import Composed, frames_of, image_key, scalar, write_frames


@pytest.fixture(scope="module")
def run(catalog, tmp_path_factory):
    path = write_frames(tmp_path_factory.mktemp("frames") / "f.h5", frames_of(1, 10))
    run = Composed(catalog)
    keys = {
        "det_image": image_key(per_event=2),
        "det_event_id": {"source": "t", "dtype": "array", "dtype_numpy": "<U8", "shape": [2]},
        "x": scalar("number"),
    }
    stream = run.stream("primary", keys)
    stream.datum(run.frames("det_image", path, per_event=2), 0, 5)
    for i in range(5):
        stream.event(det_event_id=[f"1/{2 * i}", f"1/{2 * i + 1}"], x=0.0)
    run.stop()
    return catalog[run.uid]


def test_pictures_when_written_then_first_middle_and_last_point(run, tmp_path):
    paths = write_pictures(run, tmp_path / "new")
    assert [p.name.split("-")[-1] for p in paths] == ["0001.png", "0003.png", "0005.png"]
    assert all(imread(p).shape[2] == 4 for p in paths)


def test_pictures_when_the_key_is_no_image_then_request_error(run, tmp_path):
    with pytest.raises(RequestError, match=r"keys=\['x'\]: expected some of \['det_image'\]"):
        write_pictures(run, tmp_path, keys=["x"])


@pytest.mark.parametrize(
    ("frame", "bad"),
    [
        (np.array([[0, 5, 2**32 - 2, 2**32 - 1]], "u4"), [0, 0, 1, 1]),
        (np.array([[0, 254, 255]], "u1"), [0, 1, 1]),
        (np.array([[-1, 0, 7]], "i4"), [1, 0, 0]),
        (np.array([[np.nan, np.inf, -1.5]], "f4"), [1, 1, 0]),
    ],
)
def test_pixels_when_not_measured_then_nan(frame, bad):
    assert np.isnan(good_pixels(frame))[0].tolist() == [bool(b) for b in bad]


def test_limits_when_one_pixel_is_hot_then_not_led_by_it():
    picture = np.ones((100, 100), "f4")
    picture[:50] = 10
    picture[0, 0] = 1e9
    assert limits(picture) == (1.0, 10.0)


@pytest.mark.parametrize("frame", [np.zeros((4, 4), "u4"), np.full((4, 4), 2**32 - 1, "u4")])
def test_picture_when_the_frame_is_empty_or_all_masked_then_still_drawn(frame, tmp_path):
    draw(frame, tmp_path / "p.png", title="t")
    assert imread(tmp_path / "p.png").size > 0


def test_picture_when_pixels_are_masked_then_grey_and_the_peak_bright(tmp_path):
    frame = np.ones((3000, 2000), "u4")
    frame[:1000] = 2**32 - 1
    frame[2500, 1500:1520] = 100
    draw(frame, tmp_path / "p.png", title="t")
    seen = imread(tmp_path / "p.png")[..., :3]
    grey = np.isclose(seen, 0.6, atol=0.01).all(axis=-1).mean()
    dark = np.isclose(seen, colormaps["viridis"](0.0)[:3], atol=0.01).all(axis=-1).mean()
    assert 0.1 < grey < dark

"""Pedestal runs: means, spreads and mask bits as the facility evaluates them (contract jungfrau.md, 8.3)."""

from __future__ import annotations

import numpy as np
import pytest

from sfdaq_ophyd.calibration import PedestalEvaluation
from sfdaq_ophyd.calibration.pedestal import WINDOW
from sfdaq_ophyd.errors import DtypeError, RequestError, ShapeError

NAME, SHAPE = "JF03T01V02", (512, 1024)
REC = (0, 1 << 12, 3 << 12)
CODES = (0, 1, 3)


def dark(code, level, noise=0, rng=None):
    adc = np.full(SHAPE, level, dtype=np.uint16)
    if noise:
        adc += rng.integers(0, noise + 1, SHAPE, dtype=np.uint16)
    return adc | np.uint16(code << 14)


def test_stages_when_taken_in_turn_then_mean_and_rms_are_numpys():
    rng = np.random.default_rng(0)
    evaluation = PedestalEvaluation(NAME)
    frames = {s: [dark(CODES[s], 2900 + 5000 * (s > 0), 20, rng) for _ in range(8)] for s in range(3)}
    for stage, stack in frames.items():
        assert all(evaluation.add(frame, REC[stage]) for frame in stack)
    assert evaluation.n_frames == [8, 8, 8]
    for stage, stack in frames.items():
        adc = np.stack(stack) & 0x3FFF
        np.testing.assert_allclose(evaluation.mean[stage], adc.mean(axis=0))
        np.testing.assert_allclose(evaluation.rms[stage], adc.std(axis=0), atol=1e-4)


def test_pixels_when_stuck_or_in_another_gain_then_flagged_with_their_bits():
    rng = np.random.default_rng(0)
    evaluation = PedestalEvaluation(NAME)
    for stage in range(3):
        for _ in range(4):
            frame = dark(CODES[stage], 3000, 30, rng)
            frame[1, 1] = CODES[stage] << 14 | 1234
            frame[2, 2] = (3 << 14 | 100) + rng.integers(0, 9)
            evaluation.add(frame, REC[stage])
    mask = evaluation.pixel_mask
    assert mask.dtype == np.int64
    assert mask[1, 1] == 1 << 9 | 1 << 10 | 1 << 12
    assert mask[2, 2] & (1 << 1 | 1 << 2 | 1 << 4) == 1 << 1 | 1 << 2
    assert mask[3, 3] & (1 << 1 | 1 << 2 | 1 << 4) == 0


def test_high_gain_when_a_pixel_is_wrong_then_its_own_bits():
    evaluation = PedestalEvaluation(NAME)
    frame = dark(1, 3000)
    frame[0, 0] = 7
    evaluation.add(frame, REC[1] | 1)
    assert evaluation.pixel_mask[0, 0] & 0x1FE == 1 << 6


def test_stage_when_never_taken_then_mean_0_and_all_flagged():
    evaluation = PedestalEvaluation(NAME)
    evaluation.add(dark(0, 3000), REC[0])
    assert np.all(evaluation.mean[2] == 0)
    assert np.all(evaluation.rms[2] == 0)
    assert np.all(evaluation.pixel_mask & (1 << 12))


@pytest.mark.parametrize(
    ("frame", "daq_rec", "is_good"),
    [
        (dark(0, 3000), REC[0], False),
        (dark(0, 3000), REC[1], True),
        (dark(0, 3000), np.array([REC[0], REC[1]]), True),
        (dark(2, 3000), 2 << 12, True),
        (np.where(np.arange(1024) < 513, dark(1, 5), dark(0, 5)), REC[0], True),
    ],
)
def test_frame_when_it_does_not_belong_then_left_out_and_counted(frame, daq_rec, is_good):
    evaluation = PedestalEvaluation(NAME)
    assert not evaluation.add(frame, daq_rec, is_good=is_good)
    assert (evaluation.n_frames, evaluation.n_skipped) == ([0, 0, 0], 1)
    assert not (evaluation.pixel_mask & 0x1FE).any()


def test_mean_when_more_frames_come_than_the_window_then_old_ones_fade():
    evaluation = PedestalEvaluation(NAME)
    evaluation.n_frames[0] = WINDOW
    evaluation._sum[0], evaluation._squares[0] = 1000.0 * WINDOW, 1000.0**2 * WINDOW
    evaluation.add(dark(0, 2000), REC[0])
    np.testing.assert_allclose(evaluation.mean[0], 1000 + 1000 / WINDOW)


def test_bad_modules_when_given_then_the_others_suffice():
    frame = np.concatenate([dark(0, 3000), dark(1, 3000)])
    assert not PedestalEvaluation("JF99T02V01").add(frame, REC[0])
    assert PedestalEvaluation("JF99T02V01", n_bad_modules=1).add(frame, REC[0])
    with pytest.raises(RequestError, match="n_bad_modules"):
        PedestalEvaluation("JF99T02V01", n_bad_modules=2)


def test_frame_when_not_raw_then_refused():
    with pytest.raises(DtypeError):
        PedestalEvaluation(NAME).add(np.zeros(SHAPE, "f4"), 0)
    with pytest.raises(ShapeError):
        PedestalEvaluation(NAME).add(np.zeros((514, 1030), "u2"), 0)

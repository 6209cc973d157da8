"""The fit of the demo's report."""

from __future__ import annotations

import numpy as np
import pytest

from sfdaq_ophyd.cli.demo_exhibits import Peak, draw_peaks, fit_peak, short


@pytest.mark.parametrize("truth", [Peak(1.0, 1.0, 1e6, 3e7, 0), Peak(0.2, 0.5, 40, -3, 0)])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_fit_when_there_is_a_peak_then_found_with_its_error(truth, noise):
    x = np.linspace(-1, 3, 9)
    y = truth(x) + noise * truth.height * np.random.default_rng(1).standard_normal(9)
    found = fit_peak(x, y)
    assert found.centre == pytest.approx(truth.centre, abs=max(1e-6, 4 * noise))
    assert found.sigma == pytest.approx(truth.sigma, rel=max(1e-6, 10 * noise))
    assert abs(found.centre - truth.centre) < 5 * found.error + 1e-6 and found.error <= 4 * noise + 1e-6


@pytest.mark.parametrize("y", [np.zeros(9), np.arange(9.0), -np.exp(-(np.linspace(-2, 2, 9) ** 2))])
def test_fit_when_there_is_no_peak_then_none(y):
    assert fit_peak(np.linspace(-2, 2, 9), y) is None


def test_fit_when_points_are_few_then_none_and_the_picture_has_the_points(tmp_path):
    x = np.arange(4.0)
    assert fit_peak(x, x) is None
    draw_peaks(tmp_path / "p.png", x, {"total": (x, "keV", None)}, 1.0, title="few")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_path_when_long_then_its_end_is_shown():
    assert short("/a/b.h5") == "/a/b.h5"
    assert short("/a/very/long/path/to/some/where/deep/b.h5") == "…/b.h5"
    assert short("/a/" + 40 * "x" + ".h5", 10) == "…xxxxxx.h5"

"""Constants that cannot be right: refused, or warned of, by file, dataset and range.

Medians of a stage are looked at, and shares of its pixels: single bad pixels are the mask's business, and
`JungfrauCalibration` refuses zeros and NaN on pixels in use.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ..calibration.constants import STAGES
from ..errors import FileFormatError

logger = logging.getLogger(__name__)

ADC_MAX = 16383
"""Largest ADU of a pixel; what is above are gain bits."""

MANY = 0.01
"""Share of pixels above which a fault is not one of single pixels."""


def check_gain(path: str | Path, dataset: str, gain: np.ndarray) -> None:
    """Refuse gains of the wrong sign, or inverted (keV/ADU); `gain` is (planes, y, x) in ADU/keV.

    G0 and HG0 are positive, the others negative; each stage amplifies less than the one before (contract
    jungfrau.md, section 8.1).
    """
    medians = [_median(plane) for plane in gain]
    for k, (median, plane) in enumerate(zip(medians, gain)):
        positive = k % 3 == 0
        if np.isfinite(median) and median != 0 and (median > 0) != positive:
            expected = f"{'positive' if positive else 'negative'} gains in ADU/keV"
            raise _wrong(path, dataset, k, plane, "the wrong sign", expected)
    for k in (1, 2, 4, 5):
        if k < len(gain) and np.isfinite(medians[k]) and abs(medians[k]) > abs(medians[k - 1]) > 0:
            expected = f"less than in {STAGES[k - 1]}: ADU/keV, not keV/ADU"
            raise _wrong(path, dataset, k, gain[k], "inverted", expected)
    _warn_of_nothing(path, dataset, gain)


def check_pedestal(path: str | Path, dataset: str, pedestal: np.ndarray) -> None:
    """Refuse pedestals that no ADC can give, warn of a stage without values; (planes, y, x) in ADU."""
    for k, plane in enumerate(pedestal):
        if (share := float(np.mean(plane > ADC_MAX))) > MANY:
            what = f"{share:.0%} of the pixels above the ADC's range: are the gain bits still in it?"
            raise _wrong(path, dataset, k, plane, what, f"0 to {ADC_MAX} ADU, gain bits taken out")
        if (share := float(np.mean(plane < 0))) > MANY:
            what = f"{share:.0%} of the pixels below 0"
            raise _wrong(path, dataset, k, plane, what, f"0 to {ADC_MAX} ADU")
    _warn_of_nothing(path, dataset, pedestal)


def _warn_of_nothing(path, dataset: str, planes: np.ndarray) -> None:
    for k, plane in enumerate(planes):
        empty = float(np.mean(~np.isfinite(plane) | (plane == 0)))
        if empty > 0.5:
            logger.warning(
                "%s: dataset %r: %s holds nothing (0 or NaN) for %.0f %% of the pixels; range %s. "
                "Pixels that switch to it come out wrong, unless they are masked",
                path, dataset, STAGES[k], 100 * empty, _range(plane),
            )  # fmt: skip


def _wrong(path, dataset: str, k: int, plane: np.ndarray, what: str, expected: str) -> FileFormatError:
    return FileFormatError(path, dataset, found=f"{STAGES[k]} {_range(plane)}, {what}", expected=expected)


def _range(plane: np.ndarray) -> str:
    finite = plane[np.isfinite(plane)]
    if not finite.size:
        return "without a number"
    return f"from {finite.min():g} to {finite.max():g}, median {np.median(finite):g}"


def _median(plane: np.ndarray) -> float:
    finite = plane[np.isfinite(plane) & (plane != 0)]
    return float(np.median(finite)) if finite.size else float("nan")

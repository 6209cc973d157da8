"""Constants that cannot be right are refused, or warned of, by file, dataset and range (wrong-constants)."""

from __future__ import annotations

import logging
import re

import h5py
import numpy as np
import pytest

from sfdaq_ophyd.errors import FileFormatError
from sfdaq_ophyd.files.constants import load_calibration
from sfdaq_ophyd.files.gain_file import read_gain, write_gain
from sfdaq_ophyd.files.pedestal_file import Pedestal, read_pedestal, write_pedestal

DETECTOR = "JF01T01V01"
ONES = np.ones((512, 1024))
PEDESTAL = np.array([2900.0, 15200, 14600])
GAIN = np.array([41.0, -1.4, -0.11, 100, -1.4, -0.11])


def planes(values):
    return np.asarray(values, float)[:, None, None] * ONES


def pedestal_file(tmp_path, values):
    path = tmp_path / f"20260101_000000.{DETECTOR}.res.h5"
    write_pedestal(path, Pedestal(values, None, np.zeros((512, 1024), "i8")))
    return path


def gain_file(tmp_path, values, kind):
    path = tmp_path / ("gains.h5" if kind == "hdf5" else "gainMaps_M001.bin")
    if kind == "hdf5":
        write_gain(path, values)
        return path
    values.astype("<f8").tofile(path)
    return [path]


@pytest.mark.parametrize(
    "values, found",
    [
        ([2900, 15200 + 16384, 14600 + 49152], "G1 from 31584 to 31584, .*: are the gain bits still in it"),
        ([2900, 15200, 14600 - 16384], "G2 from -1784 to -1784, .*below 0"),
        ([np.inf, 15200, 14600], "G0 without a number, .*above the ADC's range"),
    ],
)
def test_wrong_constants_when_no_adc_gives_such_a_pedestal_then_refused(tmp_path, values, found):
    path = pedestal_file(tmp_path, planes(values))
    with pytest.raises(FileFormatError, match=f"{path}: dataset 'gains': found {found}.*expected 0 to 16383"):
        read_pedestal(path, DETECTOR)


@pytest.mark.parametrize("nothing", [0, np.nan])
def test_wrong_constants_when_a_stage_holds_nothing_then_warned(tmp_path, caplog, nothing):
    path = pedestal_file(tmp_path, planes([2900, 15200, nothing]))
    with caplog.at_level(logging.WARNING):
        read_pedestal(path, DETECTOR)
    assert f"{path}: dataset 'gains': G2 holds nothing (0 or NaN) for 100 % of the pixels" in caplog.text


def test_wrong_constants_when_only_a_few_pixels_are_odd_then_taken_without_a_word(tmp_path, caplog):
    values = planes(PEDESTAL)
    values[1, :5, :500] = 40_000
    values[2, 200:203] = 0
    read_pedestal(pedestal_file(tmp_path, values), DETECTOR)
    gain = planes(GAIN)
    gain[1, :5, :500], gain[2, 10:12] = 1.4, 0
    read_gain(gain_file(tmp_path, gain, "hdf5"), DETECTOR)
    assert not caplog.text


@pytest.mark.parametrize("kind", ["hdf5", "binary"])
@pytest.mark.parametrize(
    "values, found",
    [
        (GAIN * [1, -1, 1, 1, 1, 1], "G1 from 1.4 to 1.4, .*wrong sign, expected negative"),
        (GAIN * [1, 1, 1, -1, 1, 1], "HG0 from -100 to -100, .*wrong sign, expected positive"),
        (np.abs(GAIN), "G1 from 1.4 to 1.4, .*wrong sign"),
        (1 / GAIN, "G1 from -0.714286 .*inverted, expected less than in G0: ADU/keV, not keV/ADU"),
        (GAIN[[0, 2, 1, 3, 4, 5]], "G2 from -1.4 .*inverted"),
    ],
)
def test_wrong_constants_when_gains_have_another_sign_or_order_then_refused(tmp_path, values, found, kind):
    file = gain_file(tmp_path, planes(values), kind)
    where = re.escape(str(file if kind == "hdf5" else file[0]))
    with pytest.raises(FileFormatError, match=f"{where}: dataset .*found {found}"):
        read_gain(file, DETECTOR)


def test_wrong_constants_when_a_calibration_is_loaded_then_refused_before_the_first_frame(tmp_path):
    gain = gain_file(tmp_path, planes(GAIN), "hdf5")
    good = pedestal_file(tmp_path, planes(PEDESTAL))
    load_calibration(DETECTOR, gain, good, engine="numpy", geometry=False)
    with h5py.File(good, "r+") as file:
        file["gains"][1] += 16384
    with pytest.raises(FileFormatError, match="gain bits"):
        load_calibration(DETECTOR, gain, good, engine="numpy", geometry=False)
    with h5py.File(gain, "r+") as file:
        del file["gains"]
        file["gains"] = planes(GAIN)[:2]
    with pytest.raises(FileFormatError, match=r"found float64 \(2, 512, 1024\), expected .*\(4 or 6, 512"):
        load_calibration(DETECTOR, gain, good, engine="numpy", geometry=False)

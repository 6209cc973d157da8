"""What a PV held at each pulse, out of its few changes."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.files import held_values
from sfdaq_ophyd.files.daq_file import PVDATA, read_daq_file
from sfdaq_ophyd.files.held_values import held_rows, write_held


@pytest.mark.parametrize(
    ("changes", "connected", "asked", "rows"),
    [
        ([100, 120], [1, 1], [99, 100, 119, 120, 500], [-1, 0, 0, 1, 1]),
        ([], [], [1, 2], [-1, -1]),
        ([100, 110, 120], [1, 0, 1], [100, 110, 119, 120], [0, -1, -1, 2]),
        ([0, 120], [1, 1], [100, 120], [0, 1]),
        ([0], [1], [100, 120], [0, 0]),
        ([0], [0], [100], [-1]),
        ([0, 0, 120], [1, 1, 1], [100, 120], [-1, 2]),
        ([100, 0, 120], [1, 1, 1], [100, 101, 120], [0, -1, 2]),
        ([100, 0], [1, 1], [100, 200], [0, -1]),
        ([100, 100], [1, 1], [100], [1]),
    ],
)
def test_held_rows_when_changes_are_known_or_not_then_last_one_or_none(changes, connected, asked, rows):
    found = held_rows(np.array(changes, "i8"), np.array(connected, bool), asked)
    assert found.tolist() == rows


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=20),
    st.lists(st.integers(1, 31), max_size=10, unique=True),
)
def test_held_rows_when_anything_is_given_then_never_a_later_or_unknown_change(changes, asked):
    changes.sort(key=lambda change: change[0])
    ids = np.array([pulse_id for pulse_id, _ in changes], "i8")
    connected = np.array([there for _, there in changes], bool)
    asked = sorted(asked)
    for pulse_id, row in zip(asked, held_rows(ids, connected, asked)):
        if row >= 0:
            assert connected[row] and ids[row] <= pulse_id and (ids[row] > 0 or row == 0)
            assert not ((ids > ids[row]) & (ids <= pulse_id)).any()


@pytest.fixture
def pvdata(tmp_path):
    def write(**pvs):
        path = tmp_path / "acq0001.PVDATA.h5"
        with h5py.File(path, "w") as file:
            for name, (values, ids) in pvs.items():
                values = np.array(values)
                column = (len(values), 1)
                group = file.create_group(f"data/{name}")
                group["data"] = values.reshape(column) if values.ndim == 1 else values
                group["pulse_id"] = np.array(ids, "i8").reshape(column)
                group["connected"] = np.ones(column, "u1")
        return path

    return write


def held(path, tmp_path, names, asked):
    view = tmp_path / "aligned" / path.name
    found = write_held(view, path, read_daq_file(path, PVDATA), names, asked)
    with h5py.File(view) as file:
        return {one.key: one.problem or (file[one.dataset][()], file[one.ids][()].tolist()) for one in found}


def test_write_held_when_numbers_then_one_value_per_pulse_and_nan_where_unknown(pvdata, tmp_path):
    path = pvdata(P=([1, 2], [10, 12]), W=(np.arange(6.0).reshape(2, 3), [0, 11]))
    found = held(path, tmp_path, ["P", "W", "ABSENT"], [9, 11, 12])
    np.testing.assert_array_equal(found["P"][0], [np.nan, 1, 2])
    assert found["P"][1] == [0, 11, 12]
    np.testing.assert_array_equal(found["W"][0], [[0, 1, 2], [3, 4, 5], [3, 4, 5]])
    assert found["ABSENT"] == "is not in the file"


def test_write_held_when_texts_then_the_text_or_none(pvdata, tmp_path):
    path = pvdata(T=(np.array([b"in", "häuser".encode()]), [2, 4]))
    texts, ids = held(path, tmp_path, ["T"], [1, 2, 3, 4])["T"]
    assert [text.decode() for text in texts] == ["", "in", "in", "häuser"] and ids == [0, 2, 3, 4]


def test_write_held_when_too_large_then_left_in_the_file(pvdata, tmp_path, monkeypatch):
    monkeypatch.setattr(held_values, "MAX_BYTES", 47)
    path = pvdata(W=(np.zeros((2, 3)), [1, 2]), P=([1.0], [1]))
    found = held(path, tmp_path, ["W", "P"], [1, 2])
    assert found["W"].startswith("is larger than 47 bytes") and found["P"][1] == [1, 2]


def test_write_held_when_a_long_text_holds_at_many_pulses_then_it_is_left_in_the_file(pvdata, tmp_path):
    path = pvdata(T=(np.array([b"x" * 1000]), [0]), P=([1.0], [1]))
    found = held(path, tmp_path, ["T", "P"], range(1, 1100))
    assert found["T"] == "holds longer texts" and len(found["P"][1]) == 1099
    assert (tmp_path / "aligned" / path.name).stat().st_size < 100_000

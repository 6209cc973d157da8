"""Values that devices really give cost their own column at the most (catalog-odd-values)."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiled.adapters.sql import COLUMN_NAME_PATTERN, is_safe_identifier

from sfdaq_ophyd.catalog._columns import ScalarColumn, cast, no_columns, stacked

from .composed import Composed, scalar

NAN = float("nan")


def array(shape=(3,), dtype_numpy="<f8"):
    return {"source": "test", "dtype": "array", "shape": list(shape), "dtype_numpy": dtype_numpy}


def undeclared(shape=(3,)):
    """As of a signal or a waveform PV of ophyd, which does not tell the type of its numbers."""
    return {"source": "test", "dtype": "array", "shape": list(shape)}


CASES = {
    "plain": (scalar("number"), [1.5, 2, 3.0, 4], [1.5, 2, 3, 4]),
    "big": (scalar("integer", "<u8"), [1, 2**63, 2**64 - 1, 0], [1, 2**63, 2**64 - 1, 0]),
    "big_at_once": (scalar("integer"), [2**63 + 5, 1, 2, 2**64 - 1], [2**63 + 5, 1, 2, 2**64 - 1]),
    "big_later": (scalar("integer"), [1, 2, 2**63, 4], [1, 2, 2**63, 4]),
    "huge": (scalar("integer"), [2**70, 1, -(2**80), 3], [str(2**70), "1", str(-(2**80)), "3"]),
    "numpy_ints": (scalar("integer", "<i2"), [np.int16(1), np.int64(2), 3, np.uint8(4)], [1, 2, 3, 4]),
    "half": (scalar("integer"), [1, 0.5, 2, 0.25], [1, 0.5, 2, 0.25]),
    "half_later": (scalar("integer"), [1, 2, 2.5, 4.0], [1, 2, 2.5, 4]),
    "offline": (scalar("number"), [None, 1.0, None, 2.0], [NAN, 1, NAN, 2]),
    "offline_later": (scalar("integer"), [5, 6, None, 7], [5, 6, NAN, 7]),
    "offline_big": (scalar("integer", "<u8"), [2**64 - 1, None, 3, 4], [str(2**64 - 1), "<NA>", "3", "4"]),
    "offline_then_big": (
        scalar("integer"),
        [None, 2**53 + 1, 3, None],
        ["<NA>", str(2**53 + 1), "3", "<NA>"],
    ),
    "number_big": (
        scalar("number"),
        [1.5, 2**53 + 1, np.int64(2), 2**60],
        ["1.5", str(2**53 + 1), "2", str(2**60)],
    ),
    "number_exact": (scalar("number"), [1.5, 2**60, None, 3], [1.5, 2.0**60, NAN, 3]),
    "offline_int": (scalar("integer"), [None, None, 5, 6], [NAN, NAN, 5, 6]),
    "text_in_number": (scalar("number"), [1.0, "OFF", 2.0, b"x"], [1, NAN, 2, NAN]),
    "flag": (scalar("boolean"), [True, False, np.True_, 1], [True, False, True, True]),
    "flag_odd": (scalar("boolean"), [True, 7, False, None], ["True", "7", "False", "<NA>"]),
    "text": (scalar("string"), ["a", None, b"\xff", "\ud800"], ["a", "<NA>", "\\xff", "\\ud800"]),
    "wave": (array(), [[1, 2, 3], [4, 5, 6], [7, 8], [9] * 5], None),
    "wave_grows": (array(dtype_numpy="<i4"), [np.arange(n, dtype="i4") for n in (1, 3, 6, 9)], None),
    "wave_offline": (array(), [None, None, np.ones(3), None], None),
    "wave_empty": (array((0,)), [[], [], [1.0], []], None),
    "wave_odd": (array(), [[1.0], {"no": 1}, [[1.0], [2.0]], 5], None),
    "wave_of_text": (array(dtype_numpy="<U1"), [["a"], ["b"], ["longer"], ["c", "d"]], None),
    "wave_turns_float": (array(dtype_numpy="<i8"), [[1], [2], [0.5], [3]], None),
    "wave_big_grows": (
        array(dtype_numpy="<i8"),
        [np.array(each) for each in ([2**60 + 1], [2**60 + 3, -5, 0], [7], [1, 2, 3, 2**63 - 1])],
        None,
    ),
    "wave_big_later": (
        array(dtype_numpy="<i8"),
        [np.array(each) for each in ([1, 2], [3], [2**53 + 1, 5], [4, 5, 6])],
        None,
    ),
    "wave_big_once": (undeclared(), [[2**60 + 1, 1], [0.5, 2.0], None, [3]], None),
    "wave_big_mixed": (undeclared(), [[1, 2], [2**63 + 1, -1], [2**60 + 1, 0.5], [3, 4]], None),
    "wave_big_huge": (undeclared(), [[1, 2], [2**70, -1], [3, 4], None], None),
    "wave_big_offline": (array(dtype_numpy="<u8"), [None, np.array([2**64 - 1], "u8"), None, None], None),
    "wave_signed_later": (undeclared(), [np.array([2**64 - 1], "u8"), [-1], [-(2**60) - 1], [5]], None),
    "wave_short_later": (array(dtype_numpy="<i4"), [np.arange(n, dtype="i4") for n in (3, 3, 2, 3)], None),
    "plane": (array((2, 2)), [np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 3)), np.ones((1, 1))], None),
    "bits": (array(dtype_numpy="|b1"), [[True], [False], [True, False], [True]], None),
}


def same(found, expected):
    if expected is None or isinstance(expected, float) and np.isnan(expected):
        return found is None or found != found
    return found == expected


@pytest.fixture(scope="module", params=["each event alone", "two and two", "all at once"])
def run(catalog, request):
    """All cases in one run, in batches: later values meet what is there, whichever way they come."""
    last = {"each event alone": range(4), "two and two": (1,), "all at once": ()}[request.param]
    run = Composed(catalog)
    stream = run.stream("primary", {key: spec for key, (spec, *_) in CASES.items()})
    for i in range(4):
        stream.event(**{key: values[i] for key, (_, values, _) in CASES.items()})
        if i in last:
            catalog.flush()
    run.stop()
    catalog.flush()
    assert catalog.waiting == []
    return catalog[run.uid]


@pytest.fixture(scope="module")
def read(run):
    """All of it, read once."""
    return run["primary"].read()


@pytest.mark.parametrize("key", [key for key, case in CASES.items() if case[2] is not None])
def test_scalar_when_odd_then_exact_or_missing_and_the_others_as_they_were(read, key):
    found = read[key].values
    expected = CASES[key][2]
    assert len(found) == 4
    assert all(map(same, found.tolist(), expected)), (found, expected)


@pytest.mark.parametrize("key", [key for key, case in CASES.items() if case[2] is None])
def test_array_when_its_shape_or_type_changes_then_every_row_is_there_and_padded(read, key):
    found = read[key].values
    assert len(found) == 4
    ndim = found.ndim - 1
    for row, value in zip(found, CASES[key][1]):
        value = None if isinstance(value, dict) else value
        value = [] if value is None or np.ndim(value) != ndim else value
        if isinstance(value, list):
            value = np.array(value, object if value else float, ndmin=ndim)
        inner = tuple(slice(n) for n in value.shape)
        if row.dtype.kind == "U":
            value = np.array(
                [
                    each if isinstance(each, str) else f"{each:.17g}" if each % 1 else str(int(each))
                    for each in value.tolist()
                ]
            )
        assert row[inner].tolist() == value.tolist()  # numpy would compare large integers as floats
        rest = np.ones(row.shape, bool)
        rest[inner] = False
        missing = row[rest] == "" if row.dtype.kind == "U" else np.isnan(row[rest].astype(float))
        assert missing.all(), row


def test_documents_when_arrays_change_their_shape_then_each_event_has_what_was_recorded(run):
    events = [doc for name, doc in run.documents() if name == "event"]
    assert len(events) == 4
    for key, (spec, values, _) in CASES.items():
        if spec["dtype"] != "array":
            continue
        for event, value in zip(events, values):
            value = value.tolist() if isinstance(value, np.ndarray) else value
            found = event["data"][key]
            assert found == value, key
            assert str(found) == str(value), key  # each number in its type


def test_run_when_values_do_not_fit_then_it_says_so_once_per_column(run, catalog):
    notes = run.metadata["notes"]
    for key in ("text_in_number", "wave_odd"):
        assert (
            sum(note.startswith(f"{key} of stream primary: a value does not fit") for note in notes) == 1
        ), key
    for key in ("huge", "flag_odd", "offline_big", "offline_then_big", "number_big"):
        assert sum(note.startswith(f"{key} of stream primary: not every value fits") for note in notes) == 1
    assert sum(note.startswith("wave of stream primary changes its length") for note in notes) == 1
    for key in CASES:
        is_said = any(note.startswith(f"{key} of stream primary: no type of numbers") for note in notes)
        assert is_said == (key.startswith("wave_big") or key == "wave_signed_later"), key
    assert not any(note.startswith(("plain", "big", "half", "offline ", "numpy")) for note in notes)


def test_columns_when_more_than_a_table_may_have_then_all_are_read(catalog):
    run = Composed(catalog)
    names = [f"c{i}" for i in range(600)]
    stream = run.stream("primary", {name: scalar("number") for name in names})
    for i in range(2):
        stream.event(**{name: float(i) for name in names})
    run.stop()
    found = catalog[run.uid]["primary"].read(variables=["c0", "c599"])
    assert list(found["c0"]) == list(found["c599"]) == [0.0, 1.0]


NO_COLUMNS = [
    "theta",
    "Theta",
    "THETA",
    "2theta",
    "δ",
    "a;b",
    "x(1)",
    "it's",
    "a--b",
    "a=b+c",
    "50%",
    "l" * 70,
]


def test_keys_when_no_table_takes_them_then_arrays_of_their_own_and_the_run_is_whole(catalog):
    check_no_columns(catalog)


def check_no_columns(catalog):
    run = Composed(catalog)
    keys = {name: scalar("number") for name in NO_COLUMNS} | {"Time": scalar("integer")}
    stream = run.stream("primary", {**keys, "1text": scalar("string"), "1n": scalar("integer")})
    for i in range(4):
        values = {name: i + n / 2 for n, name in enumerate(NO_COLUMNS)}
        stream.event(**values, Time=2**60 + i, **{"1text": "long" * i, "1n": 2**70 if i == 3 else i})
        if i == 1:
            catalog.flush()
    run.stop()
    catalog.flush()
    assert catalog.waiting == []
    found = catalog[run.uid]["primary"].read()
    for n, name in enumerate(NO_COLUMNS):
        assert found[name].values.tolist() == [i + n / 2 for i in range(4)], name
    assert found["Time"].values.tolist() == [2**60 + i for i in range(4)]
    assert found["1text"].values.tolist() == ["long" * i for i in range(4)]
    assert found["1n"].values.tolist() == ["0", "1", "2", str(2**70)]
    notes = catalog[run.uid].metadata["notes"]
    assert sum("no table takes a column of this name" in note for note in notes) == len(NO_COLUMNS) + 2


@pytest.mark.parametrize("dtype", ["i2", "u4", "i8", "u8", "f4", "?"])
@pytest.mark.parametrize("are_batched", [False, True])
def test_array_when_its_key_tells_no_type_then_that_of_its_values_and_exact(catalog, dtype, are_batched):
    largest = 1 if dtype == "?" else 1.5 if dtype == "f4" else np.iinfo(dtype).max
    values = [np.array([0, 1, largest], dtype), np.array([largest, largest, 0], dtype)]
    run = Composed(catalog)
    stream = run.stream("primary", {"x": undeclared()})
    for value in values:
        stream.event(x=value)
        if not are_batched:
            catalog.flush()
    run.stop()
    found = catalog[run.uid]["primary"]["x"].read()
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, values)


@given(st.text(max_size=6) | st.text("aA_1;'-/*(", max_size=6) | st.integers(55, 70).map("é".__mul__))
@settings(deadline=None, max_examples=300)
def test_key_when_it_is_to_be_a_column_then_the_server_takes_it(name):
    if not no_columns([name]):
        is_safe_identifier(name, COLUMN_NAME_PATTERN, allow_reserved_words=True)


ANY = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.just({}), st.lists(st.floats(), max_size=3), st.complex_numbers(),
    st.just(np.datetime64("2026-01-01")),
)  # fmt: skip


@given(
    st.sampled_from(["number", "integer", "boolean", "string", "other"]),
    st.lists(ANY, min_size=1),
    st.lists(ANY),
)
@settings(deadline=None, max_examples=300)
def test_column_when_given_anything_then_its_rows_in_one_type(declared, first, later):
    column = ScalarColumn({"dtype": declared}, first)
    for values in (first, later):
        made = column.array(values)
        assert (len(made), made.type) == (len(values), column.type)
        pyarrow.table({"x": made}).to_pandas()


@given(st.lists(ANY, min_size=1, max_size=6))
@settings(deadline=None, max_examples=300)
def test_stacked_when_given_anything_then_a_row_each(values):
    made, *_ = stacked(values)
    assert len(made) == len(values) and 0 not in made.shape and made.dtype.kind in "biufU"


@pytest.mark.parametrize(
    ("block", "dtype", "same_values"),
    [
        (np.array([1, 2]), "<u1", True),
        (np.array([1, 300]), "<u1", False),
        (np.array([0.5]), "<f4", True),
        (np.array([0.1]), "<f4", False),
        (np.array([NAN]), "<i8", False),
        (np.array([2**63], "u8"), "<i8", False),
        (np.array(["abc"]), "<U2", False),
        (np.array(["ab"]), "<f8", False),
        (np.array([1]), [["x", "<i4"]], False),
        (np.array([2**53 + 1]), "<f8", False),
        (np.array([2**60, -(2**53)]), "<f8", True),
        (np.array([2**64 - 1], "u8"), "<f8", False),
        (np.array([2**24 + 1]), "<f4", False),
    ],
)
def test_cast_when_it_changes_a_value_then_refused(block, dtype, same_values):
    assert (cast(block, dtype) is not None) == same_values


def test_warnings_when_a_column_is_odd_then_one_each(catalog, caplog):
    run = Composed(catalog)
    stream = run.stream("primary", {"x": scalar("number")})
    with caplog.at_level(logging.WARNING):
        for i in range(5):
            stream.event(x="OFF")
            if i == 2:
                catalog.flush()
        run.stop()
        catalog.flush()
    assert caplog.text.count("x of stream primary: a value does not fit number") == 1


def test_metadata_when_numbers_are_beyond_those_of_json_then_text_and_arrays_are_lists(catalog):
    given = {
        "flux": 1e16,
        "low": float("-inf"),
        "m": np.array(3.0),
        "v": np.arange(2),
        "raw": b"ab",
        "x": 0.5,
    }
    run = Composed(catalog, **given, nested=[{"n": np.float32(2**60)}, np.uint64(2**63)])
    spec = {**scalar("number", "<f8"), "limits": {"control": {"low": 0.0, "high": float("inf")}}}
    stream = run.stream("primary", {"x": spec})
    stream.event(x=1.0)
    run.stop()
    catalog.flush()
    assert catalog.waiting == []
    run = catalog[run.uid]
    start = run.metadata["start"]
    expected = {"flux": "1e+16", "low": "-inf", "m": 3.0, "v": [0, 1], "raw": "ab", "x": 0.5}
    assert {key: start[key] for key in given} == expected
    assert start["nested"] == [{"n": repr(float(2**60))}, str(2**63)]
    assert run["primary"].metadata["data_keys"]["x"]["limits"]["control"] == {"low": 0.0, "high": None}

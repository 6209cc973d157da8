"""What came of a series of the Eiger's stream, what is missing of it; arguments that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.clients import EigerStream
from sfdaq_ophyd.clients.eiger_stream import Series
from sfdaq_ophyd.errors import RequestError


@given(st.permutations(range(12)), st.integers(0, 12))
def test_series_when_images_come_in_any_order_then_what_came_and_what_is_missing(ids, n_came):
    series = Series(1, "A")
    for k in range(n_came):
        series.add(ids[k])
    came = set(ids[:n_came])
    assert [k for k in range(-1, 14) if series.has(k)] == sorted(came)
    for n in (0, 5, 14):
        assert series.missing(n) == [k for k in range(n) if k not in came]


def test_series_when_joined_late_or_all_is_refused_then_it_takes_no_more_room():
    series = Series(1, "A")
    for k in range(5, 30_005):
        series.add(k)
        series.refuse(k, "why")
    assert series.n_images == 30_000 and series.missing(6) == [0, 1, 2, 3, 4]
    assert len(series._firsts) == len(series._lasts) == 1 and len(series.refused) == 10_000


@pytest.mark.parametrize(
    ("field", "value"), [("max_bytes", 5), ("max_bytes", True), ("endpoint", "dcu"), ("max_hold", -1)]
)
def test_stream_when_an_argument_is_wrong_then_named(field, value):
    with pytest.raises(RequestError, match=field):
        EigerStream(**{"endpoint": "tcp://127.0.0.1:1", field: value})

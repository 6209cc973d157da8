"""What all benchmarks share: functions measured pair by pair."""

import pytest

from benchmarks.pairs import Ratio, interleave, result


def test_interleave_when_the_machine_slows_down_then_each_pair_meets_the_same_load():
    calls = []

    def function(name, cost):
        def call():
            calls.append(name)
            return cost * (10.0 if len(calls) > 20 else 1.0)

        return call

    ours, theirs = interleave([function("ours", 3.0), function("theirs", 2.0)], rounds=20, warm_up=2)
    assert calls[:8] == ["ours", "theirs", "theirs", "ours"] * 2
    ratio = Ratio(ours, theirs)
    assert (ratio.low, ratio.value, ratio.high, ratio.n) == (1.5, 1.5, 1.5, 20)


def test_result_when_the_bar_is_an_upper_or_a_lower_limit_then_it_says_whether_it_is_met():
    ratio = Ratio([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    row = result("x", ratio, baseline="y", most=1.9, note="z")
    assert row["bar"] == "<= 1.9" and not row["met"] and row["ratio"] == 2.0
    assert row["note"] == "1.5 to 2.5 (half of 3 pairs); z"
    assert result("x", ratio, baseline="y", least=1.9)["met"]
    assert row["limit"] is None
    for limit, met in ((1.85, "at its limit"), (1.5, False)):
        row = result("x", ratio, baseline="y", most=1.9, limit=Ratio([limit], [1.0]))
        assert (row["limit"], row["met"]) == (limit, met)
    assert result("x", ratio, baseline="y", least=2.5, limit=Ratio([2.1], [1.0]))["met"] == "at its limit"
    assert result("x", ratio, baseline="y", least=1.9, limit=Ratio([1.8], [1.0]))["met"] is True
    with pytest.raises(TypeError, match="either"):
        result("x", ratio, baseline="y")

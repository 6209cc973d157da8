"""What all benchmarks share: functions measured pair by pair, again and again, beside other work."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import bluesky.plans as bp
import numpy as np
import pytest
from ophyd.sim import SynSignal

from benchmarks import __main__ as command
from benchmarks import busy
from benchmarks.aged import LongScan
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
    assert result("x", Ratio([1.0], [2.0]), baseline="y", most=1)["note"] == "one figure"
    for limit, met in ((1.85, "at its limit"), (1.5, False)):
        row = result("x", ratio, baseline="y", most=1.9, limit=Ratio([limit], [1.0]))
        assert (row["limit"], row["met"]) == (limit, met)
    assert result("x", ratio, baseline="y", least=2.5, limit=Ratio([2.1], [1.0]))["met"] == "at its limit"
    assert result("x", ratio, baseline="y", least=1.9, limit=Ratio([1.8], [1.0]))["met"] is True
    with pytest.raises(TypeError, match="either"):
        result("x", ratio, baseline="y")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Make a function that runs the command over an area of one row; returns exit code and rows."""

    def run(rows, *words):
        left = iter(rows)

        def benchmark():
            row = next(left)
            run.calls.append("row")
            if isinstance(row, Exception):
                raise row
            return {"name": "row", "bar": "<= 1", "baseline": "b", "note": "n"} | row

        module = SimpleNamespace(BENCHMARKS=[benchmark])
        monkeypatch.setitem(sys.modules, "benchmarks.bench_fake", module)
        monkeypatch.setattr(command, "areas", lambda: ["fake"])
        monkeypatch.setattr(command, "HERE", tmp_path)
        code = command.main(["fake", *words])
        assert next(left, None) is None
        return code, json.loads((tmp_path / "results.json").read_text())

    run.calls = []
    return run


def test_benchmarks_when_a_row_is_met_in_all_runs_then_it_is_met_and_the_spread_is_shown(measured):
    rows = [{"ratio": ratio, "met": True} for ratio in (0.9, 0.7, 0.8)]
    code, (row,) = measured(rows, "--repeat", "3")
    assert code == 0
    assert (row["ratio"], row["met"], row["note"]) == (0.8, "yes", "0.7 to 0.9 in 3 of 3 runs: 3 yes; n")


def test_benchmarks_when_a_row_is_missed_in_one_run_then_it_is_not_met_and_that_run_is_shown(measured):
    rows = [{"ratio": 0.9, "met": True}, {"ratio": 1.2, "met": False}, {"ratio": 1.1, "met": "at its limit"}]
    code, (row,) = measured(rows, "--repeat", "3")
    assert code == 1
    assert (row["ratio"], row["met"]) == (1.2, "no")
    assert row["note"] == "0.9 to 1.2 in 3 of 3 runs: 1 yes, 1 at its limit, 1 no; n"


def test_benchmarks_when_one_run_fails_then_the_row_is_not_met(measured):
    code, (row, failed) = measured([{"ratio": 0.9, "met": True}, ValueError("no room")], "--repeat", "2")
    assert code == 1
    assert (row["met"], row["note"]) == ("no", "0.9 to 0.9 in 1 of 2 runs: 1 yes; n")
    assert (failed["met"], failed["note"]) == ("no", "1 of 2 runs: 1 no; failed: no room")


def test_benchmarks_when_there_is_a_load_then_it_spins_meanwhile_and_quiet_results_stay(
    measured, monkeypatch
):
    @contextlib.contextmanager
    def spinning(n):
        measured.calls.append(n)
        yield
        measured.calls.append("over")

    monkeypatch.setattr(busy, "spinning", spinning)
    measured([{"ratio": 0.9, "met": True}])
    _, rows = measured([{"ratio": 1.0, "met": True}], "--load", "2")
    assert [(row["load"], row["ratio"]) for row in rows] == [(0, 0.9), (2, 1.0)]
    assert measured.calls == [0, "row", "over", 2, "row", "over"]


@pytest.mark.parametrize("words", [["nothing"], ["--repeat", "0"], ["--load", "-1"]])
def test_benchmarks_when_the_words_are_wrong_then_nothing_is_measured(measured, words):
    with pytest.raises(SystemExit) as stopped:
        measured([], *words)
    assert stopped.value.code == 2


def test_long_scan_when_it_is_told_to_go_on_then_it_takes_so_many_points_and_stands_still():
    triggered = []
    detector = SynSignal(name="det", func=lambda: triggered.append(1) or len(triggered))
    triggered.clear()
    scan = LongScan(bp.count([detector], 7))
    for n, total in ((3, 3), (2, 5), (2, 7)):
        assert np.shape(scan.go_on(n)) == (n, 2)
        assert len(triggered) == len(scan.steps) == total
    scan.finish()
    with pytest.raises(RuntimeError, match="has ended"):
        scan.go_on(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_busy_when_it_is_stopped_in_the_background_then_jobs_end_and_what_was_measured_is_shown(
    number, tmp_path
):
    code = (
        "import signal, sys, time; from pathlib import Path; from benchmarks import busy\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what runs in the background\n"
        "busy.spinning = lambda n: __import__('contextlib').nullcontext()\n"
        "before = busy.subprocess.Popen\n"
        "def job(command, **options):\n"
        "    words = 'print(0)' if command[-1] == 'demo' else 'import time; time.sleep(600)'\n"
        "    child = before([sys.executable, '-c', words], **options)\n"
        "    sys.stdout.write(f'JOB {child.pid}\\n'), sys.stdout.flush()\n"
        "    return child\n"
        "busy.subprocess.Popen = job\n"
        "sys.exit(busy.main(['--only', 'demo', 'fly', '--repeat', '1', '--load', '2']))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(busy.ROOT), "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as child:
        try:
            # the second job begins while the first one's result is shown, in its line too
            before, jobs = "", []
            while len(jobs) < 2 or "demo" not in before:
                before += (line := child.stdout.readline())
                assert line, before
                jobs = re.findall(r"JOB (\d+)\n", before)
            assert "ended well" in before, before
            child.send_signal(number)
            said, _ = child.communicate(timeout=120)
        finally:
            child.kill()
    assert child.returncode == 130
    assert "1 of 1" in said and "fly" not in said and said.endswith("stopped before the end\n")
    for job in jobs:
        with pytest.raises(ProcessLookupError):
            os.kill(int(job), 0)
    assert list(tmp_path.iterdir()) == []


def test_benchmarks_when_they_are_stopped_then_what_was_measured_is_kept(measured, monkeypatch, capsys):
    rows = iter([{"ratio": 0.9, "met": True}])

    def benchmark():
        for row in rows:
            return {"name": "row", "bar": "<= 1", "baseline": "b", "note": "n"} | row
        raise KeyboardInterrupt

    measured([{"ratio": 0.5, "met": True}])
    monkeypatch.setattr(sys.modules["benchmarks.bench_fake"], "BENCHMARKS", [benchmark, benchmark])
    assert command.main(["fake", "--repeat", "3"]) == 130
    (row,) = json.loads((command.HERE / "results.json").read_text())
    assert row["ratio"] == 0.9
    assert "stopped before the end" in capsys.readouterr().out


def test_benchmarks_help_when_it_is_read_then_every_column_is_explained(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    begun = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert begun >= set(command.KEYS)

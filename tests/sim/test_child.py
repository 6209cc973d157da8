"""A child takes as long as it reports, or waits for a CPU; else its start fails and says at which step."""

import itertools
import os
import queue
import signal
import threading

import pytest

from sfdaq_ophyd import starting
from sfdaq_ophyd.errors import RequestError, ServiceTimeout, ServiceUnreachable
from sfdaq_ophyd.starting import Child

SERVE = """
from sfdaq_ophyd.sim.child import read_commands, reply
import queue
commands = queue.Queue()
read_commands(commands)
print("READY here", flush=True)
while (command := commands.get()) is not None:
    reply(lambda: command["numbers"][0] / command["numbers"][1])
"""


@pytest.fixture
def child_of(tmp_path):
    """Return a child that runs a script, ended after the test."""
    children = []

    def make(script, timeout=60):
        (tmp_path / "scripted_child.py").write_text(script)
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        child = Child(
            "scripted_child", timeout=timeout, env={**os.environ, "PYTHONPATH": path}, hint="start_timeout"
        )
        children.append(child)
        return child

    yield make
    for child in children:
        child.stop()


def test_start_when_a_child_needs_three_times_its_limit_but_reports_steps_then_starts(child_of):
    script = (
        "import time\nfor i in range(60):\n    print('STEP', i, flush=True)\n    time.sleep(0.1)\n" + SERVE
    )
    child = child_of(script, timeout=2.0)
    assert child.start() == "here"
    assert child.running


def test_start_when_a_child_does_nothing_more_then_fails_at_its_limit_and_says_where(child_of):
    script = (
        "import sys, time\nprint('STEP digging', flush=True)\nprint('tired', file=sys.stderr, flush=True)\n"
    )
    child = child_of(script + "time.sleep(600)", timeout=3.0)
    with pytest.raises(ServiceTimeout, match=r"scripted_child: not done after 3 s; .*'digging'") as caught:
        child.start()
    assert "s after the beginning; tired" in str(caught.value)
    assert "start_timeout" in str(caught.value), "says what to do"
    assert not child.running, "the child is gone"


def test_start_when_a_child_ends_then_fails_at_once_with_its_last_words(child_of):
    child = child_of("raise SystemExit('no such detector')", timeout=600)
    with pytest.raises(ServiceUnreachable, match="it ended; its last words: no such detector"):
        child.start()


def test_start_when_a_child_says_something_else_then_fails_with_it(child_of):
    with pytest.raises(ServiceUnreachable, match="hello"):
        child_of("print('hello', flush=True)\nimport time\ntime.sleep(600)").start()


def test_ask_when_a_child_refuses_then_its_words_and_it_goes_on(child_of):
    child = child_of(SERVE)
    child.start()
    with pytest.raises(RequestError, match="ZeroDivisionError"):
        child.ask({"numbers": [1, 0]})
    assert child.ask({"numbers": [1, 2]}) == 0.5
    child.stop(kill=True)
    with pytest.raises(ServiceUnreachable, match="not running"):
        child.ask({"numbers": [1, 2]})


def test_next_line_when_the_child_had_no_cpu_then_that_time_does_not_count(monkeypatch):
    waited = iter([0.0, 0.5, 0.75, 0.75])
    monkeypatch.setattr(starting, "time_without_cpu", lambda pid: next(waited))
    seen = []
    with pytest.raises(ServiceTimeout, match="step 'starting Python, importing'"):
        starting.next_line(queue.Queue(), 1, what="child", timeout=0.1, on_step=seen.append)
    assert seen == ["starting Python, importing, waiting for a CPU"] * 2, "twice it was given more time"


def test_next_line_when_steps_come_then_handed_on_and_the_answer_returned():
    lines = queue.Queue()
    for line in ("STEP one", "STEP two", "READY"):
        lines.put(line)
    lines.put(None)
    seen = []
    assert starting.next_line(lines, 1, what="child", timeout=1, on_step=seen.append) == "READY"
    assert starting.next_line(lines, 1, what="child", timeout=1) is None
    assert seen == ["one", "two"]


def test_stop_when_the_child_had_no_cpu_then_it_is_not_killed_for_that(child_of, monkeypatch, tmp_path):
    child = child_of(
        f"{SERVE}time.sleep(1.5)\nopen({str(tmp_path / 'ended')!r}, 'w')".replace(
            "import queue", "import queue, time"
        )
    )
    child.start()
    waited = itertools.count(0.0, 0.5)
    monkeypatch.setattr(starting, "time_without_cpu", lambda pid: next(waited))
    monkeypatch.setattr(starting, "END_TIMEOUT", 0.1)
    child.stop()
    assert (tmp_path / "ended").exists()


def test_stop_when_the_child_does_not_end_then_it_is_killed(child_of, monkeypatch):
    child = child_of("import time\nprint('READY', flush=True)\ntime.sleep(600)")
    child.start()
    monkeypatch.setattr(starting, "END_TIMEOUT", 0.1)
    child.stop()
    assert not starting.Path(f"/proc/{child.pid}").exists()


def test_time_without_cpu_when_there_is_no_such_process_then_zero():
    assert starting.time_without_cpu(2**22 + 1) == 0
    assert starting.time_without_cpu(os.getpid()) >= 0


def test_report_step_when_called_then_a_line_on_standard_output(capsys):
    starting.report_step("importing")
    assert capsys.readouterr().out == "STEP importing\n"


def test_signal_when_the_main_thread_holds_the_lock_that_its_end_takes_then_it_ends_all_the_same(monkeypatch):
    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    lock, done = threading.Lock(), threading.Event()

    def end():
        with lock:
            done.set()

    from sfdaq_ophyd.sim import child

    child.on_signal(end)
    with lock:
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert done.wait(60)

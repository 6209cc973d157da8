"""Limits count what this process could see: not the time it was suspended."""

import subprocess
import sys
import threading

import pytest

from sfdaq_ophyd.limits import Alarm, Limit, asked_again, counted_time

from .devices.suspended import suspended

WAITS = """
import time
from sfdaq_ophyd.limits import Alarm, Limit, counted_time
import threading
limit, rang, begun = Limit(1.0), threading.Event(), time.monotonic()
Alarm(1.0, rang.set)
print("waiting", flush=True)
while not limit.reached():
    time.sleep(0.01)
rang.wait()
print(time.monotonic() - begun, flush=True)
"""


def test_limit_when_the_process_is_suspended_then_that_time_does_not_count():
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "waiting\n"
        with suspended(child, 2.0):  # longer than the limit
            pass
        took = float(child.stdout.readline())
    assert took > 2.5


def test_limit_when_passed_then_the_thing_is_looked_at_once_more():
    limit = Limit(0.0)
    assert not limit.reached()
    assert limit.reached()


def test_limit_when_restarted_then_it_needs_two_looks_again():
    limit = Limit(0.0)
    limit.reached()
    limit.restart()
    assert not limit.reached()


def test_limit_when_there_is_none_then_never_reached():
    limit = Limit(None)
    assert limit.left == float("inf")
    assert [limit.reached() for _ in range(3)] == [False] * 3
    assert limit.step(0.25) == 0.25


def test_limit_when_waiting_then_no_longer_than_what_is_left():
    assert Limit(0.0).step(5.0) == 0.0
    assert Limit(100.0).step(0.1) == 0.1


def test_alarm_when_its_time_has_passed_then_called_once():
    calls, rang = [], threading.Event()
    Alarm(0.0, lambda: calls.append("first"))
    Alarm(0.2, rang.set)
    assert rang.wait(120)
    assert calls == ["first"]


def test_alarm_when_cancelled_then_not_called():
    calls, rang = [], threading.Event()
    Alarm(0.1, lambda: calls.append("cancelled")).cancel()
    Alarm(0.3, rang.set)
    assert rang.wait(120)
    assert calls == []


def test_alarm_when_its_function_fails_then_the_others_still_go_off(caplog):
    rang = threading.Event()
    Alarm(0.0, lambda: 1 / 0)
    Alarm(0.1, rang.set)
    assert rang.wait(120)
    assert "an alarm failed" in caplog.text


def test_counted_time_when_read_often_then_never_goes_back():
    times = [counted_time() for _ in range(1000)]
    assert times == sorted(times)


@pytest.fixture
def late(monkeypatch):
    """Makes questions that time out in a time in which this process cannot look, `n` times or for ever."""

    def question(n):
        def ask():
            ask.n += 1
            if ask.n <= n:
                threading.Event().wait(0.05)
                raise TimeoutError("late by the clock on the wall")
            return "answer"

        ask.n = 0
        return ask

    monkeypatch.setattr("sfdaq_ophyd.limits.counted_time", lambda: 0.0)
    return question


def test_question_when_this_process_could_not_look_then_it_is_asked_again(late):
    assert asked_again(late(2), 1.0) == "answer"


def test_question_when_this_process_could_look_then_it_is_asked_once():
    asked = []

    def ask():
        asked.append(1)
        raise TimeoutError("no such PV")

    with pytest.raises(TimeoutError):
        asked_again(ask, 1.0)
    assert len(asked) == 1


def test_question_within_a_question_when_this_process_could_not_look_then_the_outer_one_is_asked_again(late):
    asked, ask = [], late(9)

    def inner():
        asked.append(1)
        return asked_again(ask, 1.0)

    assert asked_again(inner, 1.0) == "answer"
    assert len(asked) == 10, "each time the inner question was asked once"
    assert asked_again(late(2), 1.0) == "answer", "and later ones by themselves again"


def test_question_when_its_time_has_passed_then_it_is_asked_once_more(late):
    ask = late(100)
    with pytest.raises(TimeoutError):
        asked_again(ask, 0.0)
    assert ask.n == 2

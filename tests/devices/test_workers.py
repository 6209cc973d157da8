"""Threads that are kept for the next call."""

from __future__ import annotations

import threading

from sfdaq_ophyd.devices import _workers
from sfdaq_ophyd.devices._workers import Workers


def test_function_when_the_one_before_is_over_then_gets_its_thread(wait_for):
    workers, seen = Workers("w"), []
    for _ in range(5):
        workers.do(lambda: seen.append(threading.current_thread()))
        wait_for(lambda: not workers.n_open and workers._n_idle == 1, "the thread to be idle again")
    assert len(set(seen)) == 1


def test_functions_when_they_block_each_other_then_each_has_a_thread():
    workers, n = Workers("w"), 5
    all_there, over = threading.Barrier(n + 1), threading.Event()

    def meet():
        all_there.wait(30)
        over.wait(30)

    for _ in range(n):
        workers.do(meet)
    all_there.wait(30)
    over.set()


def test_thread_when_there_is_nothing_to_do_then_goes(wait_for, monkeypatch):
    monkeypatch.setattr(_workers, "IDLE", 0.01)
    workers, seen = Workers("w"), []
    workers.do(lambda: seen.append(threading.current_thread()))
    wait_for(lambda: seen and not seen[0].is_alive(), "the thread to go")
    workers.do(lambda: seen.append(threading.current_thread()))
    wait_for(lambda: len(seen) == 2, "another one")

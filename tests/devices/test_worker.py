"""One thread for many jobs, and what happens when one of them hangs."""

from __future__ import annotations

import threading

import pytest

from sfdaq_ophyd.clients.broker_status import StatusListener
from sfdaq_ophyd.clients.std_daq_redis import StdDaqRedis
from sfdaq_ophyd.devices._worker import Worker, Workers, ends_within
from sfdaq_ophyd.devices.broker._follower import Announced, FileFollower
from sfdaq_ophyd.limits import _Heartbeat


@pytest.fixture
def worker():
    worker = Worker("test worker")
    yield worker
    worker.end()


def alive():
    return [thread for thread in threading.enumerate() if thread.name == "test worker"]


def test_worker_when_made_then_no_thread_yet_and_one_for_all_jobs(worker):
    assert not alive()
    seen = []
    ended = [worker.do(lambda k=k: seen.append((k, threading.get_ident()))) for k in range(5)]
    assert ends_within(ended[-1], 60)
    assert [k for k, _ in seen] == list(range(5)) and len({ident for _, ident in seen}) == 1
    assert len(alive()) == 1


def test_worker_when_ended_then_its_thread_has_gone_and_the_next_job_gets_another(worker):
    worker.do(lambda: None)
    worker.end()
    worker.end()
    assert not alive()
    assert ends_within(worker.do(lambda: None), 60)


def test_worker_when_idle_for_long_then_its_thread_goes_and_the_next_job_gets_another(
    worker, wait_for, monkeypatch
):
    monkeypatch.setattr("sfdaq_ophyd.devices._worker.IDLE", 0.01)
    worker.do(lambda: None)
    wait_for(lambda: not alive(), "the idle thread to go")
    assert ends_within(worker.do(lambda: None), 60)


def test_worker_when_it_is_to_stay_then_its_thread_outlives_long_idle_times_until_it_is_not(
    wait_for, monkeypatch
):
    monkeypatch.setattr("sfdaq_ophyd.devices._worker.IDLE", 0.01)
    stays, asked = threading.Event(), []
    stays.set()
    worker = Worker("test worker", lambda: asked.append(1) or stays.is_set())
    worker.do(lambda: None)
    wait_for(lambda: len(asked) > 3, "idle times to pass")
    assert len(alive()) == 1
    stays.clear()
    wait_for(lambda: not alive(), "the idle thread to go")


def test_worker_when_a_job_raises_then_it_is_told_and_the_next_one_is_done(worker, caplog):
    assert ends_within(worker.do(lambda: 1 / 0), 60)
    assert ends_within(worker.do(lambda: None), 60)
    assert "test worker: a job failed" in caplog.text


def test_worker_when_a_job_hangs_and_is_left_then_the_next_one_does_not_wait_for_it(worker, wait_for):
    gate = threading.Event()
    stuck = worker.do(lambda: gate.wait(120))
    assert not ends_within(stuck, 0.05)
    worker.leave()
    assert ends_within(worker.do(lambda: None), 60)
    gate.set()
    assert ends_within(stuck, 60)
    wait_for(lambda: len(alive()) == 1, "the thread that hung to go")


def test_worker_when_ended_by_its_own_job_then_nothing_waits_for_itself(worker):
    assert ends_within(worker.do(worker.end), 60)


def test_workers_when_the_end_of_the_job_before_is_told_then_its_thread_takes_the_next():
    workers, seen = Workers("test workers", lambda: True), []
    for _ in range(50):
        told = threading.Event()

        def job(told=told):
            seen.append(threading.current_thread())
            return told.set

        workers.do(job)
        assert told.wait(120)
    assert len(seen) == 50 and len(set(seen)) == 1
    workers.end()
    workers.end()
    assert not seen[0].is_alive()


def test_workers_when_jobs_block_each_other_then_each_has_a_thread():
    workers, n = Workers("test workers", lambda: False), 5
    all_there, over = threading.Barrier(n + 1), threading.Event()

    def meet():
        all_there.wait(120)
        over.wait(120)
        return over.set

    for _ in range(n):
        workers.do(meet)
    all_there.wait(120)
    over.set()


@pytest.fixture
def refused(monkeypatch):
    """Whether threads are refused, by the system or by an interrupt in the middle of the start."""
    start, problems = threading.Thread.start, []

    def refuse(thread):
        if problems:
            raise problems.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return problems


@pytest.mark.parametrize("problem", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_worker_when_its_thread_cannot_be_started_then_the_next_job_gets_one(worker, refused, problem):
    refused.append(problem)
    with pytest.raises(type(problem)):
        worker.do(lambda: None)
    assert ends_within(worker.do(lambda: None), 60)


def test_limits_when_their_heartbeat_cannot_be_started_then_the_next_one_starts_it(refused):
    heartbeat = _Heartbeat()
    refused.append(RuntimeError("can't start new thread"))
    with pytest.raises(RuntimeError):
        heartbeat.now()
    heartbeat.now()
    assert heartbeat._thread.is_alive()


def test_followers_when_their_thread_cannot_be_started_then_the_next_call_starts_it(refused, tmp_path):
    redis = StdDaqRedis("redis://127.0.0.1:9", ["status"])
    listener = StatusListener("amqp://127.0.0.1:9")
    files = FileFollower("sfdaq")
    nothing = Announced(0, {}, [], 10, tmp_path, lambda found, failures: None)
    for follower, start in (
        (redis, redis.start),
        (listener, listener.start),
        (files, lambda: files.follow(nothing)),
    ):
        refused.append(RuntimeError("can't start new thread"))
        with pytest.raises(RuntimeError):
            start()
        assert follower._thread is None
        start()
        assert follower._thread.is_alive()
    redis.close()
    listener.close()
    files.end_run()

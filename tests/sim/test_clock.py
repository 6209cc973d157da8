import subprocess
import sys
import threading

import pytest

from sfdaq_ophyd.sim.clock import PULSE_PERIOD, PulseClock


@pytest.fixture
def clock():
    clock = PulseClock()
    yield clock
    clock.close()


def test_now_when_running_then_counts_with_time(clock, wait_for):
    first = clock.now()
    wait_for(lambda: clock.now() > first, "next pulse")


def test_time_of_when_running_then_now_is_within_a_pulse(clock):
    import time

    before, pulse_id, after = time.time(), clock.now(), time.time()
    assert before - PULSE_PERIOD <= clock.time_of(pulse_id) <= after


def test_pause_when_paused_then_stands_and_steps_exactly(clock):
    stood = clock.pause()
    assert not clock.running and clock.now() == stood
    assert clock.step(3) == clock.now() == stood + 3


def test_resume_when_paused_then_counts_on_without_a_jump(clock, wait_for):
    stood = clock.pause()
    clock.resume()
    after = clock.now()
    assert 0 <= after - stood < 100
    wait_for(lambda: clock.now() > after, "next pulse")


def test_step_when_running_then_refused(clock):
    with pytest.raises(RuntimeError, match=r"pause\(\) it before"):
        clock.step()


def test_wait_for_when_reached_then_true_at_once(clock):
    assert clock.wait_for(clock.now(), timeout=0)


def test_wait_for_when_clock_runs_then_true_at_the_pulse(clock):
    wanted = clock.now() + 3
    assert clock.wait_for(wanted, timeout=10) and clock.now() >= wanted


def test_wait_for_when_paused_then_false_after_timeout(clock):
    assert not clock.wait_for(clock.pause() + 1, timeout=0.05)


def test_wait_for_when_stopped_then_false_at_once(clock):
    stop = threading.Event()
    stop.set()
    clock.pause()
    assert not clock.wait_for(clock.now() + 1, timeout=60, stop=stop)


def test_clock_when_opened_in_a_child_then_steps_are_seen_by_both(clock):
    stood = clock.pause()
    code = (
        "import sys; from sfdaq_ophyd.sim.clock import PulseClock; c = PulseClock(sys.argv[1]);"
        "print(c.now()); c.step(5); c.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(clock.path)], capture_output=True, text=True, timeout=30, check=True
    )
    assert int(done.stdout) == stood
    assert clock.now() == stood + 5
    assert clock.path.exists(), "only its maker removes the file"


def test_close_when_closed_twice_then_file_is_gone(clock):
    clock.close()
    clock.close()
    assert not clock.path.exists()


def test_clock_when_many_threads_step_then_none_is_lost(clock):
    stood = clock.pause()
    threads = [threading.Thread(target=lambda: [clock.step() for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now() == stood + 800

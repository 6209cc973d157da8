import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sfdaq_ophyd.sim import clock as clock_module
from sfdaq_ophyd.sim.clock import LEAD, PULSE_PERIOD, PulseClock


@pytest.fixture
def clock():
    clock = PulseClock()
    yield clock
    clock.close()


def test_now_when_running_then_counts_with_time(clock, wait_for):
    first = clock.now()
    wait_for(lambda: clock.now() > first, "next pulse")


def test_time_of_when_running_then_now_is_within_a_pulse(clock):
    before, pulse_id, after = time.time(), clock.now(), time.time()
    assert before - PULSE_PERIOD <= clock.time_of(pulse_id) <= after


def test_pause_when_paused_then_stands_and_steps_exactly(clock):
    stood = clock.pause()
    assert not clock.running and clock.now() == stood
    assert clock.step(3) == clock.now() == stood + 3


def test_pause_when_this_process_is_held_up_in_it_then_nobody_has_counted_further(clock, monkeypatch):
    steady, seen = clock_module._steady_time, []

    def late():
        """The others' clocks go on while this one has no CPU: 50 ms before each of its first looks."""
        now = steady() + 0.05 * min(len(seen), 3)
        seen.append(clock._count(now)[1])
        return now

    monkeypatch.setattr(clock_module, "_steady_time", late)
    stood = clock.pause()
    assert len(seen) > 1 and clock.now() == stood >= max(seen)
    assert stood <= max(seen) + 1
    clock.resume()
    assert clock.now() >= stood


def test_resume_when_paused_then_counts_on_without_a_jump(clock, wait_for):
    stood, begin = clock.pause(), time.monotonic()
    clock.resume()
    after = clock.now()
    assert stood <= after <= stood + (time.monotonic() - begin) / PULSE_PERIOD + 1
    wait_for(lambda: clock.now() > after, "next pulse")


def test_step_when_running_then_refused(clock):
    with pytest.raises(RuntimeError, match=r"pause\(\) it before"):
        clock.step()


def test_wait_for_when_reached_then_true_at_once(clock):
    assert clock.wait_for(clock.now(), timeout=0)


def test_wait_for_when_clock_runs_then_true_at_the_pulse(clock):
    wanted = clock.now() + 3
    assert clock.wait_for(wanted, timeout=60) and clock.now() >= wanted


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
        [sys.executable, "-c", code, str(clock.path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == stood
    assert clock.now() == stood + 5
    assert clock.path.exists(), "only its maker removes the file"


def test_close_when_closed_twice_then_file_is_gone(clock):
    clock.close()
    clock.close()
    assert not clock.path.exists()


def test_clock_when_its_process_ends_without_closing_it_then_the_file_is_gone():
    code = "from sfdaq_ophyd.sim.clock import PulseClock; c = [PulseClock(), PulseClock(patient=True)];"
    code += "print(*(clock.path for clock in c))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    paths = [Path(path) for path in done.stdout.split()]
    assert len(paths) == 2 and not any(path.exists() for path in paths)


def test_clock_when_many_threads_step_then_none_is_lost(clock):
    stood = clock.pause()
    threads = [threading.Thread(target=lambda: [clock.step() for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now() == stood + 800


@pytest.fixture
def patient():
    clock = PulseClock(patient=True)
    yield clock
    clock.close()


def follow_in_child(clock, then):
    code = (
        "import sys; from sfdaq_ophyd.sim.clock import PulseClock; c = PulseClock(sys.argv[1]);"
        "f = c.follow('child'); print(c.now(), flush=True);" + then
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(clock.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_patient_clock_when_nobody_follows_then_counts_with_time(patient, wait_for):
    first = patient.now()
    wait_for(lambda: patient.now() > first + 3 * LEAD, "three leads")


def test_patient_clock_when_a_follower_stands_then_it_stands_and_says_for_whom(patient, wait_for):
    other = patient.follow("quick")
    with patient.follow("slow") as slow:
        stands_at = patient.status()["followers"]["slow"] + LEAD
        other.finished(stands_at)
        wait_for(lambda: patient.now() == stands_at, "end of the lead")
        assert not patient.wait_for(stands_at + 1, timeout=0.2)
        status = patient.status()
        assert status["held_by"] == "slow" and status["patient"] and status["pulse_id"] == stands_at
        slow.finished(stands_at - LEAD + 3)
        wait_for(lambda: patient.now() == stands_at + 3, "three pulses more")
        assert not patient.wait_for(stands_at + 4, timeout=0.1)
    other.close()
    assert patient.wait_for(stands_at + 3 * LEAD, timeout=60), "nobody follows any more"


def test_patient_clock_when_it_goes_on_then_there_is_no_jump_and_every_pulse_keeps_its_stamp(
    patient, wait_for
):
    first = patient.now()
    stamps = {}
    with patient.follow("slow") as slow:
        for _ in range(3):
            reached = patient.status()["followers"]["slow"] + LEAD
            wait_for(lambda reached=reached: patient.now() == reached, "end of the lead")
            stamps.update({p: patient.time_of(p) for p in range(first, reached + 1)})
            assert not patient.wait_for(reached + 1, timeout=3 * LEAD * PULSE_PERIOD)
            slow.finished(reached)
            assert patient.wait_for(reached + 1, timeout=60)
            assert patient.now() <= reached + LEAD, "time in which it stood is not made up for"
    last = max(stamps)
    assert stamps == {p: patient.time_of(p) for p in range(first, last + 1)}
    steps = [stamps[p + 1] - stamps[p] for p in range(first, last)]
    assert min(steps) > 0.99 * PULSE_PERIOD
    stood = sum(step > 2 * LEAD * PULSE_PERIOD for step in steps)
    assert stood >= 2, "twice for the follower, and where this process had no CPU"


def test_patient_clock_when_opened_in_a_child_then_it_is_patient_there_and_waits_for_it(patient, wait_for):
    child = follow_in_child(patient, "print(c.patient); c.close()")
    words = child.communicate()[0].split()
    assert words[1] == "True" and int(words[0]) <= patient.now()


def test_patient_clock_when_a_follower_dies_then_goes_on(patient, wait_for):
    child = follow_in_child(patient, "sys.stdin.read()")
    reached = int(child.stdout.readline()) + LEAD
    stood = patient.status()["followers"]["child"] + LEAD
    wait_for(lambda: patient.now() == stood, "the clock stands")
    assert stood <= reached and not patient.wait_for(stood + 1, timeout=0.1)
    assert patient.status()["held_by"] == "child"
    child.kill()  # and not reaped, as a simulator that crashed
    assert patient.wait_for(stood + 3 * LEAD, timeout=60)
    assert patient.status()["followers"] == {}
    child.communicate()


@pytest.mark.parametrize("patient", [False, True])
def test_clock_when_the_host_time_is_set_then_it_counts_on(patient, monkeypatch):
    clock = PulseClock(patient=patient)
    offset = [0.0]
    true_time = time.time
    monkeypatch.setattr("sfdaq_ophyd.sim.clock.time.time", lambda: true_time() + offset[0])
    for jump in (3600.0, -7200.0):
        before = clock.now()
        offset[0] += jump
        after = clock.now()
        assert before <= after < before + 3600 / PULSE_PERIOD
        assert clock.wait_for(after + 3 * LEAD, timeout=60)
    clock.close()


def test_patient_clock_when_paused_and_stepped_then_it_runs_on_from_there(patient):
    with patient.follow("slow") as slow:
        stood = patient.pause()
        assert patient.step(50 * LEAD) == patient.now() == stood + 50 * LEAD
        patient.resume()
        slow.finished(stood + 50 * LEAD)
        assert patient.wait_for(stood + 51 * LEAD, timeout=60)


def test_strict_clock_when_a_follower_stands_then_runs_on(clock):
    with clock.follow("slow"):
        assert clock.wait_for(clock.now() + 3 * LEAD, timeout=60)
        assert clock.status()["held_by"] == "" and not clock.patient


def test_followers_when_there_are_too_many_then_refused_by_name(clock):
    for _ in range(32):
        clock.follow("many")
    with pytest.raises(RuntimeError, match="one too many is one too many"):
        clock.follow("one too many")


def test_follower_when_closed_twice_or_after_the_clock_then_nothing_happens(clock):
    follower, other = clock.follow("one"), clock.follow("two")
    follower.close()
    follower.close()
    follower.finished(3)
    assert list(clock.status()["followers"]) == ["two"]
    clock.close()
    other.finished(5)
    other.close()


def test_patient_clock_when_nobody_is_to_be_told_then_a_slow_one_is_a_warning(
    patient, wait_for, monkeypatch, caplog
):
    monkeypatch.setattr("sfdaq_ophyd.sim.clock.RATE_WINDOW", 0.1)
    with patient.follow("slow"):
        wait_for(lambda: patient.status()["rate"] < 1, "a window in which it stands")
        patient.announce()
        wait_for(lambda: "in place of 100" in caplog.text, "a warning")
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_patient_clock_when_its_rate_cannot_be_said_then_it_goes_on(patient, wait_for, monkeypatch):
    monkeypatch.setattr("sfdaq_ophyd.sim.clock.RATE_WINDOW", 0.1)
    tried = []

    def broken(line):
        tried.append(line)
        raise BrokenPipeError(line)

    patient.announce(broken)
    wait_for(lambda: tried, "the rate is said")
    assert patient.wait_for(patient.now() + 3 * LEAD, timeout=60)


def test_patient_clock_when_it_is_slow_then_says_so_once(patient, wait_for, monkeypatch):
    monkeypatch.setattr("sfdaq_ophyd.sim.clock.RATE_WINDOW", 0.2)
    said = []
    patient.announce(said.append)
    wait_for(lambda: patient.status()["rate"] > 0 and said, "the rate is said")
    with patient.follow("slow") as slow:
        wait_for(lambda: patient.status()["rate"] < 50, "a slow window")
        wait_for(lambda: patient.status()["rate"] < 1, "a window in which it stands")
        n = len(said)
        slow.finished(patient.now())
    assert "in place of 100" in said[-1] and n <= 2
    wait_for(lambda: patient.status()["rate"] > 50, "a quick window")
    assert len(said) == n

"""Times of frames: by the modules' own clocks, anchored at the earliest arrival."""

from __future__ import annotations

import pytest

from .assembler_driver import Driver


def test_timestamps_when_clocks_run_then_follow_them_from_the_earliest_arrival():
    driver = Driver(2)
    for number, delay in zip(range(1, 9), (5, 3, 0, 4, 2, 9, 1, 7)):
        driver.send(0, number, at=1000 + number / 100 + delay / 1000, ticks=number * 100_000)
        driver.send(1, number, ticks=number * 100_000 + 2)
    times = [frame.timestamp - 5e8 for frame in driver.frames]
    assert times[2:] == pytest.approx([1000 + number / 100 for number in range(3, 9)], abs=1e-5)


def test_timestamps_when_a_new_acquisition_restarts_the_clock_then_time_does_not_run_backwards():
    driver = Driver(2)
    driver.both(*range(1, 5), ticks=5_000_000_000)
    driver.end()
    driver.now += 10
    driver.both(5, ticks=100_000)
    assert driver.frames[-1].timestamp - 5e8 == pytest.approx(driver.now, abs=1e-3)


def test_timestamps_when_end_and_first_frames_are_lost_then_the_clock_begins_anew_with_the_file_index():
    """What a receiver sends is dropped above the mark: the new clock may be ahead of the old one by then."""
    driver = Driver(2)
    driver.both(1, 2, 3, ticks=100_000, file_index=4)
    driver.now += 60
    driver.both(500, ticks=50_000_000, file_index=5)
    assert driver.frames[-1].timestamp - 5e8 == pytest.approx(driver.now, abs=1e-3)


def test_timestamps_when_an_end_message_comes_first_then_its_zero_clock_is_not_used():
    driver = Driver(2)
    driver.end()
    driver.both(1, ticks=5_000_000_000)
    assert driver.frames[0].timestamp - 5e8 == pytest.approx(driver.now, abs=1e-3)


def test_timestamps_when_one_port_lags_then_the_other_ones_clock_is_used():
    driver = Driver(2)
    for number in range(1, 31):
        driver.send(0, number, at=1000 + number / 100, ticks=number * 100_000)
        if number > 12:
            driver.send(1, number - 12, ticks=(number - 12) * 100_000)
    for frame in driver.frames:
        assert frame.timestamp - 5e8 == pytest.approx(1000 + frame.frame_number / 100, abs=1e-5)


def test_timestamps_when_the_least_late_port_is_missing_then_time_does_not_jump():
    driver = Driver(2)
    for number in range(1, 43):
        if number != 20 and number <= 30:
            driver.send(0, number, at=1000 + number / 100, ticks=number * 100_000)
        if number > 12:
            driver.send(1, number - 12, at=1000 + number / 100, ticks=(number - 12) * 100_000 + 2)
    assert driver.frames[19].missing == (0,) and len(driver.frames) == 30
    for frame in driver.frames:
        assert frame.timestamp - 5e8 == pytest.approx(1000 + frame.frame_number / 100, abs=1e-5)


def test_timestamps_when_fewer_rows_are_read_out_then_follow_the_clock_all_the_same():
    driver = Driver(2, n_packets=64)
    for number, delay in zip(range(1, 6), (5, 3, 0, 4, 2)):
        fields = {"ticks": number * 100_000, "complete": False, "n_packets": 64}
        driver.send(0, number, at=1000 + number / 100 + delay / 1000, **fields)
        driver.send(1, number, **fields)
    times = [frame.timestamp - 5e8 for frame in driver.frames]
    assert times[2:] == pytest.approx([1000 + number / 100 for number in range(3, 6)], abs=1e-5)


def test_timestamps_when_the_clock_is_zero_then_arrival_counts():
    driver = Driver(2)
    driver.both(1)
    assert driver.frames[0].timestamp - 5e8 == pytest.approx(driver.now, abs=1e-3)

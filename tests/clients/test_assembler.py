import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .assembler_driver import COLUMNS, ROWS, Driver


def test_image_when_all_ports_sent_it_then_is_whole_and_good():
    driver = Driver(3)
    driver.both(1, 2, pulse_id=None)
    assert driver.numbers == [1, 2]
    assert all(frame.is_good and frame.image.shape == (3 * ROWS, COLUMNS) for frame in driver.frames)
    assert driver.counters == {"received": 6, "complete": 2}
    driver.check_pixels()


@pytest.mark.parametrize("lag", [1, 10, 36, 90])
def test_matching_when_one_port_lags_then_loses_nothing(lag):
    driver = Driver(2, n_images=128)
    for number in range(1, 301):
        driver.send(0, number, dt=1 / 300)
        if number > lag:
            driver.send(1, number - lag)
    for number in range(301 - lag, 301):
        driver.send(1, number, dt=1 / 300)
    assert driver.numbers == list(range(1, 301))
    assert driver.counters == {"received": 600, "complete": 300}
    driver.check_pixels()


def test_matching_when_a_batch_of_one_port_comes_first_then_loses_nothing():
    driver = Driver(2)
    driver.both(*range(1, 21), ports=[1], dt=0.001)
    driver.both(*range(1, 21), ports=[0], dt=0.001)
    assert driver.numbers == list(range(1, 21))
    driver.check_pixels()


def test_missing_module_when_the_port_has_gone_on_then_the_image_is_marked_in_order():
    driver = Driver(2)
    driver.both(1, 2)
    driver.send(0, 3)
    driver.both(*range(4, 12))
    assert driver.numbers == list(range(1, 12))
    bad = driver.frames[2]
    assert not bad.is_good and bad.missing == (1,) and bad.incomplete == ()
    assert driver.counters == {"received": 21, "complete": 10, "incomplete": 1}
    driver.check_pixels()


def test_missing_module_when_told_to_drop_then_the_image_is_only_counted():
    driver = Driver(2, incomplete="drop")
    driver.send(0, 1)
    driver.both(*range(2, 12))
    assert driver.numbers == list(range(2, 12))
    assert driver.counters["incomplete"] == 1 and driver.counters["dropped"] == 1


def test_image_when_others_were_dropped_before_it_then_says_how_many():
    driver = Driver(2, incomplete="drop")
    driver.both(1)
    driver.send(0, 2)
    driver.both(3)
    for number in (4, 5):
        driver.send(0, number)
    driver.both(*range(6, 16))
    assert driver.numbers == [1, 3, *range(6, 16)]
    assert [frame.n_dropped for frame in driver.frames] == [0, 1, 2] + [0] * 9


def test_late_module_frame_when_its_image_has_gone_then_is_counted():
    driver = Driver(2)
    driver.send(0, 1)
    driver.both(*range(2, 12))
    driver.send(1, 1)
    assert driver.counters["late"] == 1 and driver.counters["incomplete"] == 1
    assert driver.numbers == list(range(1, 12))


def test_module_frame_when_slightly_out_of_order_then_still_finds_its_image():
    driver = Driver(2)
    driver.both(1)
    driver.send(0, 2)
    driver.send(0, 3)
    driver.send(1, 3)
    driver.send(1, 2)
    assert driver.numbers == [1, 2, 3]
    assert driver.counters["complete"] == 3


def test_duplicate_when_image_is_open_or_gone_then_is_counted_and_not_written():
    driver = Driver(2)
    driver.send(0, 1)
    driver.send(0, 1)
    driver.send(1, 1)
    driver.send(1, 1)
    assert driver.numbers == [1]
    assert driver.counters == {"received": 4, "duplicate": 2, "complete": 1}


def test_dead_port_when_images_time_out_then_the_others_no_longer_wait():
    driver = Driver(2, max_age=1.0)
    driver.both(*range(1, 11))
    driver.both(*range(11, 31), ports=[0])
    assert driver.numbers == list(range(1, 11))
    driver.wait(1.0)
    assert driver.numbers == list(range(1, 31))
    driver.both(31, ports=[0])
    assert driver.numbers[-1] == 31
    driver.both(32, 33)
    assert driver.frames[-1].is_good


def test_port_when_it_comes_later_than_the_other_then_images_before_are_early_and_lack_its_module():
    d = Driver(2)
    assert not d.assembler.is_early(None)
    d.both(1, 2, ports=[0])
    assert d.assembler.is_early(None) and not d.frames
    d.both(*range(3, 9))
    assert not d.assembler.is_early((0, 3))
    early = [d.assembler.is_early((frame.acquisition, frame.frame_number)) for frame in d.frames]
    assert early == [frame.missing == (1,) for frame in d.frames] == [True] * 2 + [False] * 6


def test_lost_packets_when_module_frames_are_streamed_then_image_is_bad_and_numbers_come_from_whole_ones():
    driver = Driver(3)
    nothing = {"complete": False, "n_packets": 0, "ticks": 0, "pulse_id": 0, "daq_rec": 0}
    driver.send(0, 7, **nothing)
    driver.send(1, 7, complete=False, n_packets=124, ticks=999, pulse_id=70, daq_rec=1)
    driver.send(2, 7, ticks=1000, pulse_id=77, daq_rec=3872)
    (frame,) = driver.frames
    assert (frame.pulse_id, frame.event_id, frame.daq_rec) == (77, "77", 3872)
    assert not frame.is_good and frame.incomplete == (0, 1) and frame.missing == ()
    assert driver.counters == {"received": 3, "incomplete": 1}


def test_lost_packets_when_no_module_is_whole_then_no_id_is_made_up():
    driver = Driver(2)
    driver.both(9, complete=False, n_packets=0)
    (frame,) = driver.frames
    assert (frame.pulse_id, frame.event_id, frame.daq_rec) == (None, "9", None)
    assert not frame.is_good


def test_partial_readout_when_its_packets_are_known_then_frames_are_good():
    driver = Driver(2, n_packets=64)
    driver.both(1, complete=False, n_packets=64)
    driver.both(2, complete=False, n_packets=63)
    assert [frame.is_good for frame in driver.frames] == [True, False]


def test_pulse_ids_when_modules_disagree_then_the_image_is_bad():
    driver = Driver(2)
    driver.send(0, 1, pulse_id=100)
    driver.send(1, 1, pulse_id=101)
    assert not driver.frames[0].is_good and driver.frames[0].pulse_id == 100


def test_ring_when_nobody_gives_images_back_then_new_ones_are_dropped_once_each():
    driver = Driver(2, n_images=8, hold=True)
    driver.both(*range(1, 21))
    assert driver.numbers == list(range(1, 9))
    assert driver.counters["dropped"] == 12 and "late" not in driver.counters
    driver.frames.clear()
    driver.both(21)
    assert driver.numbers == [21]


def test_ring_when_a_view_is_kept_then_its_pixels_are_not_written_again():
    driver = Driver(1, n_images=2, hold=True)
    kept = []
    for number in range(1, 50):
        driver.send(0, number)
        if number == 1:
            kept.append(driver.frames[0].image[1:3, ::2])
        driver.frames.clear()
    assert driver.counters["complete"] == 49
    assert np.all(kept[0] == 1)


def test_pending_when_a_port_never_comes_then_memory_is_bounded_by_count():
    driver = Driver(2, n_images=16, max_age=60, hold=True)
    for number in range(1, 200):
        driver.send(0, number)
        assert driver.assembler.n_pending <= 12
        del driver.frames[:-2]
    assert driver.counters["incomplete"] >= 180


def test_flush_when_an_image_has_begun_then_it_is_not_delivered():
    driver = Driver(2)
    driver.send(0, 1)
    driver.now += 0.01
    driver.assembler.begin_mark()
    driver.send(1, 1, dt=0.01)
    driver.both(2)
    assert driver.numbers == [2]
    assert driver.counters["flushed"] == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_matching_when_ports_lag_and_lose_at_random_then_counts_add_up_and_no_image_is_mixed(data):
    n_ports = data.draw(st.integers(1, 4), "ports")
    n = data.draw(st.integers(1, 25), "frames")
    sent = []
    for _ in range(n_ports):
        lost = data.draw(st.sets(st.integers(1, n), max_size=4), "lost")
        sent.append([number for number in range(1, n + 1) if number not in lost])
    driver = Driver(n_ports, n_images=128)
    left = [list(numbers) for numbers in sent]
    while any(left):
        port = data.draw(st.sampled_from([p for p in range(n_ports) if left[p]]), "port")
        driver.send(port, left[port].pop(0), dt=0.001)
    driver.wait(5)
    driver.check_pixels()
    seen = [set(numbers) for numbers in sent]
    whole = set.intersection(*seen)
    assert {f.frame_number for f in driver.frames if f.is_good} == whole
    assert {f.frame_number for f in driver.frames} == set.union(*seen)
    assert len(driver.numbers) == len(set(driver.numbers))
    assert driver.counters.get("received", 0) == sum(map(len, sent))
    assert driver.assembler.n_pending == 0


def test_image_when_modules_disagree_on_the_pulse_then_is_counted_by_name_and_lacks_a_common_one():
    driver = Driver(2)
    driver.send(0, 1, pulse_id=100)
    driver.send(1, 1, pulse_id=101)
    (frame,) = driver.frames
    assert not frame.is_good and frame.lacks == "a common pulse: 100, 101"
    assert driver.counters["mismatched"] == 1


@pytest.mark.parametrize(
    ("word", "alike"),
    [
        (3872, True),
        (3840, True),
        (3872 | 1 << 18, True),
        (3873, False),
        (3872 | 1 << 12, False),
        (0x720, False),
    ],
)
def test_image_when_modules_were_taken_in_other_modes_then_lacks_a_common_one(word, alike):
    """A module that was started anew has forgotten its gain mode; chip version and event code are no mode."""
    driver = Driver(2)
    driver.send(0, 1, pulse_id=100, daq_rec=3872)
    driver.send(1, 1, pulse_id=100, daq_rec=word)
    (frame,) = driver.frames
    assert frame.is_good == alike and driver.counters.get("mismatched", 0) == (not alike)
    words = ", ".join(map(str, sorted([3872, word])))
    assert frame.lacks == ("" if alike else f"a common gain mode and storage cell: daq_rec {words}")


@pytest.mark.parametrize(
    ("block_1", "lacks"),
    [
        ({}, ""),
        ({"complete": False, "n_packets": 3}, ""),
        ({"complete": False, "n_packets": 0}, "block 1 of 2"),
        (None, "block 1 of 2"),
    ],
)
def test_image_when_a_block_did_not_come_or_only_as_filler_then_says_so(block_1, lacks):
    """jungfrau-strict-half: a receiver that was killed, or that sends frames it did not catch."""
    driver = Driver(2)
    driver.send(0, 1)
    if block_1 is not None:
        driver.send(1, 1, **block_1)
    driver.wait(2)
    (frame,) = driver.frames
    assert frame.lacks == lacks


def test_event_ids_when_a_trigger_fills_several_storage_cells_then_each_has_its_own():
    driver = Driver(1)
    numbers = iter(range(1, 100))
    for pulse_id in (100, 110, 120):
        for cell in (0, 1, 2):
            driver.send(0, next(numbers), pulse_id=pulse_id, daq_rec=cell << 8)
    ids = [frame.event_id for frame in driver.frames]
    assert ids[:4] == ["100", "100.1", "100.2", "110.0"] and len(set(ids)) == 9


def test_event_ids_when_there_is_one_storage_cell_whichever_then_are_pulse_ids():
    driver = Driver(1)
    for number in (1, 2, 3):
        driver.send(0, number, pulse_id=100 + number, daq_rec=7 << 8)
    assert [frame.event_id for frame in driver.frames] == ["101", "102", "103"]


def test_image_when_it_began_after_later_ones_then_is_waited_for_no_longer_than_it_says():
    driver = Driver(2, max_age=1.0)
    driver.send(0, 2)
    driver.send(1, 2)
    driver.send(0, 3, dt=0.5)
    driver.send(0, 4, dt=-0.25)
    driver.send(1, 4)
    while (left := driver.assembler.settle(driver.now)) < float("inf"):
        driver.now += left + 1e-6
    assert driver.numbers == [2, 3, 4], "nothing would look again"

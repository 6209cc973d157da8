import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.calibration.geometry import TABLE
from sfdaq_ophyd.wire.detector_name import DetectorName
from sfdaq_ophyd.wire.module_header import MAX_PORTS

from .assembler_driver import COLUMNS, ROWS, Driver, pixel


def test_image_when_all_ports_sent_it_then_is_whole_and_good():
    driver = Driver(3)
    driver.both(1, 2, pulse_id=None)
    assert driver.numbers == [1, 2]
    assert all(frame.is_good and frame.image.shape == (3 * ROWS, COLUMNS) for frame in driver.frames)
    assert driver.counters == {"received": 6, "complete": 2}
    driver.check_pixels()


@pytest.fixture(autouse=True)
def _header_fields(monkeypatch):
    """Let tests say pulse_id=...: it is det_spec1 on the wire."""
    plain = Driver.header

    def header(self, port, number, *, pulse_id=0, **fields):
        return plain(self, port, number, det_spec1=pulse_id or 0, **fields)

    monkeypatch.setattr(Driver, "header", header)


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


def test_second_acquisition_when_numbered_alike_then_is_delivered_whole():
    driver = Driver(2)
    driver.both(*range(1, 61))
    driver.end()
    driver.both(*range(1, 61))
    assert driver.numbers == [*range(1, 61)] * 2
    assert {frame.acquisition for frame in driver.frames} == {0, 1}
    assert driver.counters == {"received": 240, "complete": 120}


def test_second_acquisition_when_one_port_lags_into_it_then_nothing_is_mixed():
    driver = Driver(2)
    sent0 = [*range(1, 61), None, *range(1, 61)]
    lag = 36
    for step in range(len(sent0) + lag):
        driver.now += 1 / 300
        for port, at in ((0, step), (1, step - lag)):
            if 0 <= at < len(sent0):
                tag = 100 if at > 60 else 0
                if sent0[at] is None:
                    driver.end(port)
                else:
                    driver.send(port, sent0[at], pulse_id=1000 + tag + sent0[at])
    assert driver.numbers == [*range(1, 61)] * 2
    assert all(frame.is_good for frame in driver.frames)
    assert [f.pulse_id for f in driver.frames] == [*range(1001, 1061), *range(1101, 1161)]


@pytest.mark.parametrize(
    "signs",
    [
        {"pulse_id": 2_000_000_000},
        {"file_index": 3},
        {"frame_index": 0},
    ],
    ids=lambda signs: next(iter(signs)),
)
def test_renumbering_when_the_end_was_lost_then_is_seen_by_other_signs(signs):
    driver = Driver(2)
    for number in range(1, 21):
        driver.both(number, pulse_id=1_000_000_000 + number)
    driver.both(1, **{"pulse_id": 0, **signs})
    driver.both(2, 3)
    assert driver.numbers == [*range(1, 21), 1, 2, 3]
    assert all(frame.is_good for frame in driver.frames)
    assert driver.counters["complete"] == 23


@pytest.mark.parametrize("repeated", [1, 2, 7])
def test_module_frame_when_sent_again_later_then_is_a_duplicate_and_opens_nothing(repeated):
    """The first frame too: its frame index is 0, as in a header that never says another."""
    driver = Driver(2)
    for number in range(1, 11):
        driver.both(number, pulse_id=1000 + number, frame_index=0)
    driver.send(0, repeated, pulse_id=1000 + repeated, frame_index=0)
    driver.both(11, 12, pulse_id=2000)
    assert driver.numbers == [*range(1, 13)] and {frame.acquisition for frame in driver.frames} == {0}
    assert driver.counters == {"received": 25, "complete": 12, "duplicate": 1}


def test_renumbering_when_the_jump_back_exceeds_the_window_then_opens_a_new_one():
    driver = Driver(2)
    driver.both(5000, 5001)
    driver.both(3999, 4000)
    assert [(f.frame_number, f.acquisition) for f in driver.frames] == [
        (5000, 0),
        (5001, 0),
        (3999, 1),
        (4000, 1),
    ]


def test_renumbering_when_one_port_lost_its_end_then_follows_the_others():
    driver = Driver(2)
    driver.both(*range(1, 21))
    driver.end(0)
    driver.both(*range(1, 21))
    assert driver.numbers == [*range(1, 21)] * 2
    assert driver.counters["complete"] == 40


def test_acquisition_when_a_port_slept_through_the_last_one_then_it_joins():
    driver = Driver(2, max_age=1.0)
    driver.both(*range(1, 31), ports=[0])
    driver.end(0)
    driver.wait(2)
    driver.both(*range(1, 31), dt=0.1)
    late = [frame for frame in driver.frames if frame.acquisition == 1]
    assert [frame.frame_number for frame in late] == list(range(1, 31))
    assert sum(frame.is_good for frame in late) >= 20


def test_early_end_when_frames_go_on_then_nothing_is_lost():
    driver = Driver(2)
    driver.both(1, 2)
    driver.end(1)
    driver.both(3, 4, 5)
    driver.end()
    driver.end()
    driver.both(6)
    assert driver.numbers == [1, 2, 3, 4, 5, 6]
    assert driver.counters["complete"] == 6


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


def test_blocks_when_side_by_side_then_go_by_row_and_column_not_by_port():
    driver = Driver(4, blocks=(2, 2))
    for port, block in enumerate((3, 1, 0, 2)):
        driver.send(port, 1, block=block)
    (frame,) = driver.frames
    corners = [frame.image[0, 0], frame.image[0, -1], frame.image[-1, 0], frame.image[-1, -1]]
    assert corners == [2 * 4099 + 1, 4099 + 1, 3 * 4099 + 1, 1]


def test_two_ports_when_they_claim_the_same_block_then_the_second_is_refused():
    driver = Driver(2)
    driver.send(0, 1, block=0)
    driver.send(1, 1, block=0)
    assert "block 0 of another port from tcp://port:1" in driver.problems[0]
    driver.send(1, 1)
    assert driver.frames[0].is_good


def test_image_when_there_are_fewer_ports_than_modules_then_good_only_if_that_was_not_known():
    some = Driver(2, blocks=(3, 1))
    some.both(1, 2)
    assert all(frame.is_good and not frame.missing for frame in some.frames)
    whole = Driver(2, blocks=(3, 1), shape=(12, 8))
    whole.both(1, 2)
    assert [(frame.is_good, frame.missing) for frame in whole.frames] == [(False, (2,))] * 2
    assert whole.counters["incomplete"] == 2


def test_layout_when_a_frame_is_of_another_detector_then_is_refused_and_the_stream_goes_on():
    driver = Driver(2, shape=(2 * ROWS, COLUMNS))
    driver.send(0, 1, detector_blocks=(3, 1))
    assert "expected (8, 8)" in driver.problems[0]
    driver.both(1)
    driver.send(0, 2, shape=(ROWS, COLUMNS // 2))
    driver.both(2)
    assert driver.numbers == [1, 2] and driver.counters["foreign"] == 2


def test_layout_when_the_very_first_frame_was_of_another_detector_then_the_right_one_is_learnt():
    driver = Driver(2)
    driver.send(0, 1, detector_blocks=(3, 1))
    driver.both(1, 2, 3, 4)
    driver.send(0, 5, detector_blocks=(3, 1))
    driver.both(5)
    driver.wait(2)
    assert driver.numbers == [2, 3, 4, 5] and driver.counters["foreign"] == 4
    assert [frame.is_good for frame in driver.frames] == [False, True, True, True]
    driver.check_pixels()


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
    assert driver.frames[-1].timestamp == pytest.approx(driver.now + 5e8)


def test_timestamps_when_an_end_message_comes_first_then_its_zero_clock_is_not_used():
    driver = Driver(2)
    driver.end()
    driver.both(1, ticks=5_000_000_000)
    assert driver.frames[0].timestamp == pytest.approx(driver.now + 5e8)


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
    assert driver.frames[0].timestamp == pytest.approx(driver.now + 5e8)


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


def layouts():
    """Every detector of the geometry table, in every number of columns slsReceiver can announce for it."""
    numbers = sorted({1, 2, 4, 8, 16, *(DetectorName.parse(f"{name[:7]}V01").n_modules for name in TABLE)})
    return [(n, down) for n in numbers for down in range(1, n + 1)]


@pytest.mark.parametrize("interfaces", [1, 2])
def test_columns_when_the_detector_is_named_then_modules_are_stacked_in_their_order(interfaces):
    """jungfrau-columns: modules are numbered down a column first; two interfaces are two halves of one."""
    for n, rows_of_modules in layouts():
        down, across = interfaces * rows_of_modules, -(-n // rows_of_modules)
        if down * across > MAX_PORTS:
            continue
        driver = Driver(n * interfaces, blocks=(down, across), shape=(n * interfaces * ROWS, COLUMNS))
        for port in range(n * interfaces):
            column, row = divmod(port, down)
            driver.send(port, 1, row=row, column=column)
        (frame,) = driver.frames
        assert frame.is_good and not frame.missing and not driver.problems
        for port in range(n * interfaces):
            assert (frame.image[port * ROWS : (port + 1) * ROWS] == pixel(port, 1)).all()


@pytest.mark.parametrize("blocks", [(3, 1), (1, 3), (2, 3), (5, 1), (3, 2), (8, 1)])
def test_columns_when_they_are_not_those_of_the_detector_then_the_frame_is_refused(blocks):
    driver = Driver(4, blocks=blocks, shape=(4 * ROWS, COLUMNS))
    driver.send(0, 1, row=0, column=0)
    fits = blocks == (3, 2)  # the second column is not full
    assert bool(driver.problems) != fits
    if fits:
        driver.send(1, 1, row=2, column=1)
        assert "row=2, column=1, expected one of 4 blocks, 3 in a column" in driver.problems[0]


def test_image_when_modules_disagree_on_the_pulse_then_is_counted_by_name_and_lacks_a_common_one():
    driver = Driver(2)
    driver.send(0, 1, pulse_id=100)
    driver.send(1, 1, pulse_id=101)
    (frame,) = driver.frames
    assert not frame.is_good and frame.lacks == "a common pulse: 100, 101"
    assert driver.counters["mismatched"] == 1


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


@pytest.mark.parametrize("pause", [1.05, 5.0])
def test_port_when_it_lost_the_last_frame_before_a_pause_then_the_first_one_after_it_waits_for_it(
    pause,
):
    driver = Driver(2)
    driver.both(1)
    driver.send(0, 2, dt=0.01)
    driver.wait(pause)
    driver.both(3)
    assert [(frame.frame_number, frame.is_good) for frame in driver.frames] == [
        (1, True),
        (2, False),
        (3, True),
    ]

"""Where each port's block goes in the image, and whose blocks are refused."""

from __future__ import annotations

import pytest

from sfdaq_ophyd.calibration.geometry import TABLE
from sfdaq_ophyd.wire.detector_name import DetectorName
from sfdaq_ophyd.wire.module_header import MAX_PORTS

from .assembler_driver import COLUMNS, ROWS, Driver, pixel


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

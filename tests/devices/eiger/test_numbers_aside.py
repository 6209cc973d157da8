"""Numbers computed beside the frames: order kept, one at a time, nothing held up by more than one."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from sfdaq_ophyd.devices.eiger._numbers import NumbersAside
from sfdaq_ophyd.wire.cbor import ArrayBytes
from sfdaq_ophyd.wire.frame import Frame, MissingFrame


class Slow:
    """Numbers that take until `go` is set."""

    def __init__(self):
        self.go = threading.Event()

    def of(self, image):
        assert self.go.wait(60)
        return {"total": int(image.sum())}


@pytest.fixture
def numbers():
    numbers = NumbersAside("eiger")
    yield numbers
    numbers.end()


def frame(k, data=None):
    data = np.full((2, 3), k, "<u2").tobytes() if data is None else data
    array = ArrayBytes((2, 3), np.dtype("<u2"), "none", 0, memoryview(data))
    return Frame(None, 1.0, f"1_{k}", scalars={"total": np.nan}, packed={"image": array})


def test_numbers_when_they_take_long_then_later_frames_wait_in_order_and_go_without(numbers):
    slow = Slow()
    numbers.put(frame(0), None)
    numbers.put(frame(1), slow)
    numbers.put(frame(2), slow)  # its turn comes while 1 is computed
    numbers.put(MissingFrame("1_3"), slow)
    assert [one.event_id for one in numbers.ready()] == ["1_0"]
    assert list(numbers.ready()) == []
    slow.go.set()
    first, second, lost = numbers.ready(threading.Event())
    assert (first.scalars["total"], lost.what) == (6, "1_3") and np.isnan(second.scalars["total"])
    numbers.put(frame(4), slow)
    (last,) = numbers.ready(threading.Event())
    assert last.scalars["total"] == 24


def test_numbers_when_nobody_wants_them_any_more_then_they_are_not_waited_for(numbers):
    slow, stop = Slow(), threading.Event()
    numbers.put(frame(0), slow)
    stop.set()
    assert list(numbers.ready(stop)) == []
    slow.go.set()
    numbers.clear()
    numbers.put(frame(1), None)
    assert [one.event_id for one in numbers.ready()] == ["1_1"]


def test_frame_when_its_bytes_are_no_image_then_it_is_missing_and_says_why(numbers):
    slow = Slow()
    slow.go.set()
    numbers.put(frame(0, b"too short"), slow)
    (lost,) = numbers.ready(threading.Event())
    assert isinstance(lost, MissingFrame) and lost.what.startswith("1_0 (")

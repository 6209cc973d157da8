import pytest

from sfdaq_ophyd.clients import StreamFrame
from sfdaq_ophyd.clients.frame_numbers import FrameNumbers


def frame(number, acquisition=0):
    fields = {"pulse_id": number or None, "is_good": number > 0}
    return StreamFrame(
        image=None, timestamp=0.0, event_id="1", frame_number=number, acquisition=acquisition, **fields
    )


@pytest.mark.parametrize(
    ("step", "numbers", "lost"),
    [
        (1, [7, 8, 10, 11], [9]),
        (4, [8, 12, 20, 24], [16]),
        (1, [7, 8, 0, 10, 11], []),
        (1, [7, 8, 0, 0, 12], [11]),
        (1, [0, 5_000_000, 0, 5_000_002], []),
        (1, [7, 0, 8, 9], []),
        (1, [7, 3, 4, 6], [5]),
    ],
)
def test_lost_when_numbers_jump_then_are_those_between_and_a_frame_without_one_is_a_step(step, numbers, lost):
    follow = FrameNumbers(step)
    assert [number for each in numbers for number in follow.lost_before(frame(each))] == lost


def test_lost_when_the_numbering_starts_anew_then_none():
    follow = FrameNumbers(1)
    frames = [
        frame(3, acquisition=2),
        frame(9, acquisition=3),
        frame(0, acquisition=4),
        frame(40, acquisition=4),
    ]
    assert not any(list(follow.lost_before(each)) for each in frames)

"""Acquisition after acquisition, and what goes wrong between them: every whole image comes out, once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .assembler_driver import Driver


@settings(max_examples=60, deadline=None)
@given(
    lags=st.lists(st.sampled_from([0.0, 0.0, 0.02, 0.12, 0.7]), min_size=1, max_size=4),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    restart=st.booleans(),
    pulses=st.booleans(),
    pause=st.sampled_from([0.05, 0.5, 3.0]),
    random=st.randoms(use_true_random=False),
    p_lost=st.sampled_from([0.0, 0.05]),
    p_end_lost=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_images_when_numbers_start_again_and_ports_lag_then_none_is_lost_or_mixed(
    lags, lengths, restart, pulses, pause, random, p_lost, p_end_lost
):
    if not pulses:  # then nothing tells a single frame from the same one sent twice
        lengths = [n_frames + 9 for n_frames in lengths]
    sent, whole = [], []
    now, pulse_id, first = 1000.0, 10**10, 1
    for acquisition, n_frames in enumerate(lengths):
        caught = {}
        for number in range(first, first + n_frames):
            pulse_id += 1
            safe = number == first  # by its number every port shows that it begins anew
            ports = [port for port in range(len(lags)) if safe or random.random() >= p_lost]
            for port in ports:
                index = number - caught.setdefault(port, number)
                fields = {"det_spec1": pulse_id if pulses else 0, "frame_index": index}
                sent.append((now + lags[port], len(sent), port, number, fields))
            if len(ports) == len(lags):
                whole.append((acquisition, number, pulse_id))
            now += 0.01
        for port, lag in enumerate(lags):
            if random.random() >= p_end_lost:
                sent.append((now + lag, len(sent), port, None, {}))
        first = 1 if restart else first + n_frames
        now += pause
        pulse_id += 100
    driver = Driver(len(lags), n_images=256)
    for at, _, port, number, fields in sorted(sent, key=lambda message: message[:2]):
        while at - driver.now > 0.1:  # as the thread of a stream does
            driver.wait(0.1)
        driver.send(port, number, at=at, **fields) if number else driver.end(port)
    driver.wait(5)
    good = [frame for frame in driver.frames if frame.is_good]
    assert [frame.frame_number for frame in good] == [number for _, number, _ in whole]
    if pulses:
        assert [frame.pulse_id for frame in good] == [pulse_id for _, _, pulse_id in whole]
    order = [(frame.acquisition, frame.frame_number) for frame in driver.frames]
    assert order == sorted(set(order))


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

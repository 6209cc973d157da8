"""Acquisition after acquisition, and what goes wrong between them: every whole image comes out, once."""

from __future__ import annotations

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

"""The monitor's buffer by the contract's rules, without HTTP."""

from __future__ import annotations

import asyncio

import pytest

from sfdaq_ophyd.sim.eiger import monitor
from sfdaq_ophyd.sim.eiger.monitor import MonitorBuffer, StoredFrame


def frame(k, series=1, threshold=1):
    return StoredFrame(series, k, threshold, (b"x" * 100,))


def exposure(k, thresholds=(1, 2)):
    return [frame(k, threshold=threshold) for threshold in thresholds]


def enabled(**config):
    buffer = MonitorBuffer("1.8.0")
    for name, value in {"mode": "enabled", **config}.items():
        buffer.put(name, value)
    return buffer


def filled(n, *, size=3, discard_new=True):
    async def fill():
        buffer = enabled(buffer_size=size, discard_new=discard_new)
        for k in range(n):
            await buffer.store(frame(k))
        return buffer

    return asyncio.run(fill())


@pytest.mark.parametrize(
    ("discard_new", "kept", "kept_of_shrunk"), [(True, [0, 1, 2], [0]), (False, [2, 3, 4], [4])]
)
def test_buffer_when_full_or_shrunk_then_the_drop_rule_says_which_go(discard_new, kept, kept_of_shrunk):
    buffer = filled(5, discard_new=discard_new)
    assert buffer.listing() == [[1, kept]]
    assert (buffer.n_dropped, buffer.read("status", "state").value) == (2, "overflow")
    buffer.put("buffer_size", 1)
    assert (buffer.listing(), buffer.n_dropped) == ([[1, kept_of_shrunk]], 4)


@pytest.mark.parametrize(
    ("discard_new", "kept", "kept_of_shrunk"), [(True, [0, 1, 2], [0]), (False, [2, 3, 4], [4])]
)
def test_buffer_when_two_thresholds_are_enabled_then_it_counts_exposures(discard_new, kept, kept_of_shrunk):
    async def run():
        buffer = enabled(buffer_size=3, discard_new=discard_new)
        for k in range(5):
            await buffer.store(*exposure(k))
        assert buffer.listing() == [[1, kept]] and buffer.n_dropped == 2
        assert buffer.read("status", "buffer_fill_level").value == [3, 3]
        assert all(buffer.find(1, k, threshold) for k in kept for threshold in (1, 2))
        buffer.put("buffer_size", 1)
        assert buffer.listing() == [[1, kept_of_shrunk]] and buffer.n_dropped == 4
        taken = [await buffer.next(0) for _ in range(2)]
        assert [(frame.image_id, frame.threshold_id) for frame in taken] == [
            (kept_of_shrunk[0], threshold) for threshold in (1, 2)
        ]
        assert await buffer.next(0) is None and len(buffer) == 0
        return buffer.n_bytes_free

    assert asyncio.run(run()) == monitor.MEMORY


def test_buffer_when_there_is_memory_for_half_an_exposure_then_all_of_it_is_refused(monkeypatch):
    monkeypatch.setattr(monitor, "MEMORY", 350)

    async def run():
        buffer = enabled()
        for k in range(2):
            await buffer.store(*exposure(k))
        return buffer

    buffer = asyncio.run(run())
    assert buffer.listing() == [[1, [0]]] and (buffer.n_dropped, buffer.n_bytes_free) == (1, 150)


def test_find_when_no_threshold_is_named_then_the_first_there_is():
    async def run():
        buffer = enabled()
        await buffer.store(*exposure(0, [2]))
        await buffer.store(*exposure(1))
        return [buffer.find(1, 0), buffer.find(1, 1), buffer.find(1, 0, 1), buffer.find(1, 1, 2)]

    assert [found and found.threshold_id for found in asyncio.run(run())] == [2, 1, None, 2]


def test_newest_when_the_frame_was_refused_then_it_is_still_given_and_not_taken():
    buffer = filled(5)
    for _ in range(2):
        assert asyncio.run(buffer.newest(0)).image_id == 4
    assert len(buffer) == 3


def test_clear_when_called_then_counters_are_zero_and_the_newest_stays():
    buffer = filled(5)
    buffer.clear()
    assert (len(buffer), buffer.n_dropped, buffer.read("status", "state").value) == (0, 0, "normal")
    assert asyncio.run(buffer.newest(0)).image_id == 4


def test_initialize_when_called_then_the_monitor_is_disabled_and_forgets_everything():
    buffer = filled(2)
    buffer.reset()
    assert (buffer.enabled, buffer["buffer_size"], buffer["discard_new"]) == (False, 100, True)
    assert asyncio.run(buffer.newest(0)) is None


def test_store_when_disabled_then_the_buffer_is_untouched():
    buffer = filled(2)
    buffer.put("mode", "disabled")
    asyncio.run(buffer.store(frame(9)))
    assert buffer.listing() == [[1, [0, 1]]]


def test_next_when_several_clients_wait_then_each_frame_goes_to_one():
    async def run():
        buffer = enabled()
        clients = [asyncio.create_task(buffer.next(5.0)) for _ in range(4)]
        await asyncio.sleep(0)
        for k in range(4):
            await buffer.store(frame(k))
        return [taken.image_id for taken in await asyncio.gather(*clients)]

    assert sorted(asyncio.run(run())) == [0, 1, 2, 3]


def test_next_when_nothing_comes_then_none_and_a_cancelled_wait_takes_nothing():
    async def run():
        buffer = enabled()
        gone = asyncio.create_task(buffer.next(5.0))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await buffer.store(frame(0))
        return await buffer.next(0), await buffer.next(0)

    first, second = asyncio.run(run())
    assert first.image_id == 0 and second is None


def test_buffer_when_its_size_is_beyond_all_bounds_then_it_holds_no_more_than_it_may(monkeypatch):
    monkeypatch.setattr(monitor, "MOST_EXPOSURES", 5)
    buffer = filled(7, size=2_000_000_000, discard_new=False)
    assert buffer.listing() == [[1, [2, 3, 4, 5, 6]]] and buffer.n_dropped == 2
    monkeypatch.setattr(monitor, "MEMORY", 450)
    buffer = filled(7, size=2_000_000_000)
    assert buffer.listing() == [[1, [0, 1, 2, 3]]] and buffer.n_bytes_free == 50


def test_bytes_free_when_frames_come_and_go_then_what_is_left(monkeypatch):
    buffer = filled(3)
    whole = buffer.n_bytes_free + 300
    asyncio.run(buffer.next(0))
    assert buffer.n_bytes_free == whole - 200
    buffer.put("buffer_size", 1)
    assert buffer.n_bytes_free == whole - 100
    buffer.clear()
    assert buffer.n_bytes_free == whole


def test_wait_for_room_when_its_reader_is_there_then_until_it_takes_a_frame():
    async def run():
        buffer = enabled(buffer_size=2)
        for k in range(2):
            await buffer.store(frame(k))
        await asyncio.wait_for(buffer.wait_for_room(60), 5)  # nobody has read yet
        await buffer.next(0)
        await buffer.store(frame(2))
        waiting = asyncio.create_task(buffer.wait_for_room(60))
        assert (await asyncio.wait([waiting], timeout=0.05))[1], "the buffer is full"
        assert (await buffer.next(0)).image_id == 1
        await asyncio.wait_for(waiting, 5)
        await buffer.store(frame(3))
        await asyncio.wait_for(buffer.wait_for_room(0.0), 5)  # its patience is over
        return buffer.n_dropped

    assert asyncio.run(run()) == 0

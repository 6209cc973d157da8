"""Memory of images is used again only when nobody holds it."""

from __future__ import annotations

import platform
import resource
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.clients._simplon_images import ImageFetcher
from sfdaq_ophyd.clients.ring import Ring, keep_freed_memory
from sfdaq_ophyd.wire import tiff
from sfdaq_ophyd.wire.tiff_write import TiffTags, encode


def address(buffer):
    return np.frombuffer(buffer, "u1").__array_interface__["data"][0]


def buffers():
    return ImageFetcher("http://127.0.0.1:1", 1.0)._buffer


def test_buffer_when_nobody_holds_it_then_it_is_used_again():
    take = buffers()
    first = address(take(1000))
    assert address(take(1000)) == first


def test_buffer_when_an_image_of_it_is_held_then_it_is_left_alone():
    data = encode(np.arange(48, dtype="u2").reshape(6, 8), TiffTags(1, 0, "0" * 26, 0))
    take = buffers()
    buffer = take(len(data))
    buffer[:] = data
    row = tiff.decode(buffer).image[2]
    del buffer
    other = take(len(data))
    other[:] = bytes(len(data))
    assert row.tolist() == list(range(16, 24))


def test_ring_when_few_images_are_held_then_it_takes_memory_for_no_more():
    ring = Ring((100, 1000), "u1", 8)
    tracemalloc.start()
    try:
        held = [ring.take() for _ in range(2)]
        del held[0]
        held.append(ring.take())
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 200_000 <= now < 300_000


def test_ring_when_every_buffer_has_been_in_use_then_n_bytes_is_the_memory_it_takes():
    ring = Ring((100, 1000), "u2", 8)
    held = [ring.take() for _ in range(8)]
    assert ring.take() is None
    assert ring.n_bytes == sum(image.nbytes for image in held)


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=30))
def test_buffers_when_some_are_held_then_none_of_them_is_given_twice(steps):
    take, held = buffers(), []
    for size, hold in steps:
        buffer = take(size * 100)
        assert len(buffer) == size * 100
        assert all(address(buffer) != address(other) for other in held)
        if hold:
            held.append(buffer)
        del buffer


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_messages_when_they_are_freed_then_the_next_ones_use_their_pages():
    def pages() -> int:
        """Take and free three messages of 1 MiB, 50 times; return how many pages the kernel gave for them."""
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for _ in range(50):
            messages = [np.empty((1 << 20) + 64, "u1") for _ in range(3)]
            for message in messages:
                message[::4096] = 1
            del message, messages
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    keep_freed_memory()
    pages()
    assert pages() < 50 * 3 * 256 / 4

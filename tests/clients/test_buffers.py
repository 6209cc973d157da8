"""Memory of images is used again only when nobody holds it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.clients._simplon_images import ImageFetcher
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

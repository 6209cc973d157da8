"""The fused kernel: raw module rows to the final image in one pass.

Pedestal, gain, mask, gap pixels, geometry, turns and the holes between modules at once. Rows go through a
small buffer, from which whole 64-byte lines are streamed to the image, past the caches: it is written once
and never read. Where lines of the image and of the constants coincide (no gaps, full width), the buffer is
left out.

Work comes in bands of `BAND` image rows of one module. A band is done for every frame of a stack before the
next, so its constants stay in the cache. Threads share bands. The GIL is not held, and numba's own
threads, which must not be entered twice, are not used.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numba.core import types

from ._simd import (
    COMMON_BYTES,
    RARE_BYTES,
    convert16,
    convert16_streaming,
    copy16,
    copy_part,
    expect_write,
    fence,
    get_word,
    put_pixel,
    put_word,
    stream16,
    transpose8,
)

BAND = 32
"""Image rows of one module that are done in one go."""

BUFFER_BYTES = 4 * 1088
"""Room for a module's row, with its gap pixels and what is left of the one before."""

TILE_ROW = 2 * 1024 + 64
"""Bytes from row to row of a turned band; not a power of two, for the sake of the cache."""

SCRATCH_BYTES = BUFFER_BYTES + 64 + BAND * TILE_ROW
"""Room for the buffer, a blank line and a turned band."""

_TABLE = types.int64[:, ::1]
_SIGNATURE = types.void(
    *[types.int64] * 6, _TABLE, _TABLE, *[types.int64] * 6, types.float64, types.int64, *[types.boolean] * 3,
    types.int64,
)  # fmt: skip
"""Python's own numbers only: numba takes 20 us to recognise a numpy scalar."""


@njit(nogil=True)
def _flush(buffer, skip, fill, target, last):
    """Write pixels `skip` to `fill` of the buffer, of the last line only if asked; return what is left."""
    first = 0
    if skip:
        first = 1
        copy_part(buffer, target, skip, min(16, fill))
    whole = fill // 16
    for i in range(first, whole):
        stream16(buffer + 64 * i, target + 64 * i)
    if last:
        if whole >= first and fill > 16 * whole:
            copy_part(buffer + 64 * whole, target + 64 * whole, 0, fill - 16 * whole)
        return 0
    return fill - 16 * whole


@njit(nogil=True)
def _turn_band(raw, band, turns, tile):
    """Copy the raw words of one band into `tile`, turned."""
    first = band * BAND
    if turns == 2:
        for i in range(BAND):
            source = raw + 2048 * (511 - first - i) + 2046
            for j in range(1024):
                put_word(tile + TILE_ROW * i + 2 * j, get_word(source - 2 * j))
        return
    if turns == 1:
        source, source_row = raw + 2 * (1024 - BAND - first), 2048
        target, target_row = tile + (BAND - 1) * TILE_ROW, -TILE_ROW
    else:
        source, source_row = raw + 2048 * 511 + 2 * first, -2048
        target, target_row = tile, TILE_ROW
    for j in range(0, 512, 8):
        for i in range(0, BAND, 8):
            transpose8(
                source + j * source_row + 2 * i, source_row, target + i * target_row + 2 * j, target_row
            )


@njit(nogil=True)
def _fill(buffer, blank, filled, skip, target, n):
    """Append `n` blank pixels to the row in the buffer; return the new (filled, skip, target)."""
    if n > 0 and filled % 16:
        copy16(blank, buffer + 4 * filled)
        short = min(n, 16 - filled % 16)
        filled += short
        n -= short
    if n > 0:
        _flush(buffer, skip, filled, target, True)
        target += 4 * filled
        for i in range(n // 16):
            stream16(blank, target + 64 * i)
        target += 64 * (n // 16)
        skip, filled = 0, n % 16
        copy16(blank, buffer)
    return filled, skip, target


@njit(nogil=True, forceinline=True)
def _do(
    raw, raw_stride, out, out_stride, n_frames, pitch, bands, holes, blocks, gap, common, rare,
    bases, exceptions, fill, fill_bits, mask_undefined, mask_lost, as_int, scratch,
):  # fmt: skip
    """Do the work of `calibrate`; a copy of this in place lets the compiler drop what is switched off."""
    fill = np.float32(fill)
    buffer, blank, tile = scratch, scratch + BUFFER_BYTES, scratch + BUFFER_BYTES + 64
    for i in range(16):
        put_pixel(blank + 4 * i, fill_bits)
    chip = 16 * blocks
    for task in range(len(bands)):
        band, turns, raw_row, y, x, constants, module, listed = bands[task]
        chips = (1024 if turns % 2 == 0 else 512) // chip
        row_pixels = chips * chip + gap * (chips - 1)
        bases_at, exceptions_at = bases + 24 * module, exceptions + 8 * listed
        for frame in range(n_frames):
            source = raw + frame * raw_stride + 2048 * raw_row
            source_row = 2048
            if turns == 0:
                source += 2048 * BAND * band
            else:
                _turn_band(source, band, turns, tile)
                source, source_row = tile, TILE_ROW
            common_at = common + COMMON_BYTES * (constants // 16)
            rare_at = rare + RARE_BYTES * (constants // 16)
            begin = out + frame * out_stride + 4 * (y * pitch + x)
            if row_pixels == pitch and gap == 0 and begin % 64 == 0 and turns == 0:
                for i in range(BAND * chips * blocks):
                    convert16_streaming(
                        source + 32 * i, common_at + COMMON_BYTES * i, rare_at + RARE_BYTES * i,
                        bases_at, exceptions_at, begin + 64 * i, fill, mask_undefined, mask_lost, as_int,
                    )  # fmt: skip
                _fill(buffer, blank, 0, 0, begin + 4 * BAND * pitch, holes[task, BAND - 1])
                continue
            skip = filled = target = 0
            for row in range(BAND):
                begin = out + frame * out_stride + 4 * ((y + row) * pitch + x)
                if begin != target + 4 * filled:
                    _flush(buffer, skip, filled, target, True)
                    skip = filled = (begin & 63) // 4
                    target = begin - 4 * skip
                    expect_write(begin + 4 * pitch)
                    expect_write(begin + 4 * (pitch + row_pixels))
                words = source + row * source_row
                for part in range(chips):
                    for _ in range(blocks):
                        convert16(
                            words, common_at, rare_at, bases_at, exceptions_at, buffer + 4 * filled,
                            fill, mask_undefined, mask_lost, as_int,
                        )  # fmt: skip
                        words += 32
                        common_at += COMMON_BYTES
                        rare_at += RARE_BYTES
                        filled += 16
                    if part + 1 < chips:
                        for _ in range(gap):
                            put_pixel(buffer + 4 * filled, fill_bits)
                            filled += 1
                left = _flush(buffer, skip, filled, target, False)
                target += 4 * (filled - left)
                copy16(buffer + 4 * (filled - left), buffer)
                skip, filled = 0, left
                n_blank = holes[task, row]
                filled, skip, target = _fill(buffer, blank, filled, skip, target, n_blank)
            _flush(buffer, skip, filled, target, True)
    fence()


@njit(_SIGNATURE, nogil=True, cache=True)
def calibrate(
    raw, raw_stride, out, out_stride, n_frames, pitch, bands, holes, blocks, gap, common, rare,
    bases, exceptions, fill, fill_bits, mask_undefined, mask_lost, as_int, scratch,
):  # fmt: skip
    """Do some bands of `n_frames` images, and the holes behind them.

    `raw`, `out` (with the bytes from frame to frame), `common`, `rare`, `bases`, `exceptions` (see `Packed`)
    and `scratch` are addresses; `pitch` is the image's width. `bands` has rows of (band, quarter turns, first
    raw row, image row, image column, index of the first constant, the module's place in `bases`, place of
    its first exception). `holes` has, for each band, the blank pixels that follow each of its rows.
    `blocks` is a chip's width over 16: a variable, because an unrolled loop is slower (the prefetcher follows
    one load, not sixteen).
    """
    if mask_undefined or mask_lost or as_int:
        _do(
            raw, raw_stride, out, out_stride, n_frames, pitch, bands, holes, blocks, gap, common, rare,
            bases, exceptions, fill, fill_bits, mask_undefined, mask_lost, as_int, scratch,
        )  # fmt: skip
    else:
        _do(
            raw, raw_stride, out, out_stride, n_frames, pitch, bands, holes, blocks, gap, common, rare,
            bases, exceptions, fill, fill_bits, False, False, False, scratch,
        )  # fmt: skip

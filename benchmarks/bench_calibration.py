"""The calibration kernel against `numpy.copyto` of an image of the same size, by as many threads.

All are called in turn, and on buffers of more than 160 MB each, so that none finds its images in the cache;
the constants of a detector are as warm as they stay while its frames come in. As many threads also read the
same words and constants, and write as large an image past the caches, without computing anything: what that
takes, over copyto, is the row's limit. The note says how many bytes per second each moves, without what a
cache reads before it writes; where both have two threads, it has the ratio to a copyto by one too.

In the same turns a kernel in plain numba does the same work, to the same numbers (`plain_calibration`): the
LLVM engine is kept for being at least 1.3 times faster.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from benchmarks.pairs import Ratio, interleave, result, timed
from benchmarks.plain_calibration import PlainKernel
from sfdaq_ophyd.calibration import JungfrauCalibration
from sfdaq_ophyd.calibration._numpy import address, aligned_empty
from sfdaq_ophyd.calibration._simd import copy16, fence, stream16

CYCLE_BYTES = 160 << 20
PAIRS = {1: 300, 3: 200, 16: 60}
DETECTORS = {1: "JF03T01V02", 3: "JF01T03V01", 16: "JF17T16V01"}

AT_LEAST = 1.3
"""How many times faster than a plain kernel the engine has to be."""

RAW, OUT, CONSTANTS, RARE = 2, 4, 6, 12
"""Bytes of a pixel: the word, the result, pedestal and gain of G0, and those of G1 and G2."""


def _constants(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    shape = (512 * n, 1024)
    return {
        "gain": rng.normal(1, 0.02, (4, *shape)) * np.array([41.5, -1.4, -0.11, 104])[:, None, None],
        "pedestal": rng.normal(1, 0.02, (3, *shape)) * np.array([2900, 15200, 14600])[:, None, None],
        "pixel_mask": (rng.random(shape) < 0.001).astype(np.int64),
    }


def _raw(n: int, gains: str) -> np.ndarray:
    """Dark frame with clusters of 2 x 2 pixels in G1 (one in 1000), or every pixel in any of three stages."""
    rng = np.random.default_rng(0)
    raw = rng.integers(2800, 3100, (512 * n, 1024), dtype=np.uint16)
    if gains == "mixed":
        return raw | np.array([0, 1 << 14, 3 << 14], dtype=np.uint16)[rng.integers(0, 3, raw.shape)]
    y, x = rng.integers(0, 512 * n - 1, raw.size // 4000), rng.integers(0, 1023, raw.size // 4000)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        raw[y + dy, x + dx] |= 1 << 14
    return raw


class _InPieces:
    """Do a function of a part, given as the numbers (i, n), in as many parts as there are threads."""

    def __init__(self, threads: int):
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1))

    def __call__(self, function) -> None:
        pending = [self._pool.submit(function, i, self._threads) for i in range(1, self._threads)]
        function(0, self._threads)
        for one in pending:
            one.result()


def _copy(pieces: _InPieces, out: np.ndarray, source: np.ndarray) -> None:
    out, source = out.reshape(-1), source.reshape(-1)

    def part(i: int, n: int) -> None:
        here = slice(i * out.size // n, (i + 1) * out.size // n)
        np.copyto(out[here], source[here])

    pieces(part)


@njit(nogil=True)
def _move_lines(sources, sizes, out, n_lines, part, parts, buffer, bands):
    """Read all sources and write `n_lines` of 64 bytes, in turns: each band a part of each."""
    for band in range(part * bands // parts, (part + 1) * bands // parts):
        for k in range(len(sources)):
            for line in range(band * sizes[k] // bands, (band + 1) * sizes[k] // bands):
                copy16(sources[k] + 64 * line, buffer)
        for line in range(band * n_lines // bands, (band + 1) * n_lines // bands):
            stream16(buffer, out + 64 * line)
    fence()


def _move(pieces: _InPieces, out: np.ndarray, sources: list[np.ndarray]) -> None:
    """Move what the kernel has to move, and do nothing with it."""
    places = np.array([address(source) for source in sources])
    sizes = np.array([source.nbytes // 64 for source in sources])
    bands = max(1, out.shape[-2] // 32)

    def part(i: int, n: int) -> None:
        buffer = aligned_empty((64,), np.dtype(np.uint8))
        begin = -(-address(out) // 64) * 64
        _move_lines(places, sizes, begin, out.nbytes // 64 - 1, i, n, address(buffer), bands)

    pieces(part)


def _plainly(pieces: _InPieces, plain: PlainKernel, raw: np.ndarray, out: np.ndarray) -> None:
    pieces(lambda part, parts: plain(raw, out, part, parts))


def _figures(n: int, gains: str, threads: int, stack: int | None, geometry: bool):
    """Return the times of kernel, plain kernel, its traffic, copies by as many threads and by one; pixels."""
    calibration = JungfrauCalibration(
        DETECTORS[n], **_constants(n), n_threads=threads, geometry=geometry, gap_pixels=geometry
    )
    common, rare, *_ = calibration._engine._constants
    constants = [common, rare] if gains == "mixed" else [common]
    raw = _raw(n, gains)
    first = calibration.empty(stack)
    raws = [_input(raw, stack) for _ in range(max(2, CYCLE_BYTES // (raw.nbytes * (stack or 1)) + 1))]
    outs = [first, *(calibration.empty(stack) for _ in range(max(1, CYCLE_BYTES // first.nbytes)))]
    sources = [calibration.empty(stack) for _ in outs]
    for array in outs + sources:
        array.fill(1)
    next_raw, next_out, next_source = map(itertools.cycle, (raws, outs, sources))
    pieces, one = _InPieces(threads), _InPieces(1)
    plain = PlainKernel(calibration)
    plain(raws[0], sources[0])
    np.testing.assert_array_equal(sources[0], calibration(raws[0], out=outs[0]))
    figures = interleave(
        [
            timed(lambda: calibration(next(next_raw), out=next(next_out))),
            timed(lambda: _plainly(pieces, plain, next(next_raw), next(next_out))),
            timed(lambda: _move(pieces, next(next_out), [next(next_raw), *constants])),
            timed(lambda: _copy(pieces, next(next_out), next(next_source))),
            timed(lambda: _copy(one, next(next_out), next(next_source))),
        ],
        PAIRS[n] if stack is None else 20,
        warm_up=5,
    )
    return *figures, raw.size * (stack or 1), first.size


def _input(raw: np.ndarray, stack: int | None) -> np.ndarray:
    """Return a new array with the image, or a stack of it."""
    return raw.copy() if stack is None else np.repeat(raw[None], stack, axis=0)


def _case(
    words: str, bar: float, sizes, *, gains="sparse", threads=1, stack=None, geometry=False
) -> list[dict]:
    results = []
    for n in sizes:
        ours, plain, traffic, theirs, by_one, n_pixels, n_out = _figures(n, gains, threads, stack, geometry)
        constants = CONSTANTS + (RARE if gains == "mixed" else 0)
        moved = (RAW + constants / (stack or 1)) * n_pixels + OUT * n_out
        rates = (moved / np.median(ours) / 1e9, 2 * OUT * n_out / np.median(theirs) / 1e9)
        single = f"; {Ratio(ours, by_one).value:.3g} of a copy by 1 thread" if threads > 1 else ""
        modules = f"{n} module{'s' * (n > 1)}"
        where = ", gaps and geometry" if geometry else ""
        results.append(
            result(
                f"calibration, {modules}, {words}{where}",
                Ratio(ours, theirs),
                most=bar,
                limit=Ratio(traffic, theirs),
                baseline=f"numpy.copyto of the same output, {threads} thread{'s' * (threads > 1)}",
                note=f"{np.median(ours) * 1e3:.3f} ms against {np.median(theirs) * 1e3:.3f} ms, "
                f"{np.median(traffic) * 1e3:.3f} ms for its bytes alone; "
                f"{rates[0]:.3g} against {rates[1]:.3g} GB/s{single}",
            )
        )
        results.append(
            result(
                f"calibration, {modules}, {words}{where}: engine",
                Ratio(plain, ours),
                least=AT_LEAST,
                baseline=f"how much faster than a plain numba kernel, {threads} thread{'s' * (threads > 1)}",
                note=f"{np.median(ours) * 1e3:.3f} ms against {np.median(plain) * 1e3:.3f} ms",
            )
        )
    return results


def _table(geometry: bool) -> list[dict]:
    more = 0.1 * geometry
    return [
        *_case("single image, 1 thread", 1.7 + more, (1, 3), geometry=geometry),
        *_case("single image, 2 threads", 1.15 + more, (1, 3), threads=2, geometry=geometry),
        *_case("single image, 2 threads", 1.3 + more, (16,), threads=2, geometry=geometry),
        *_case("stack of 8, 2 threads", 1.0 + more, (16,), threads=2, stack=8, geometry=geometry),
        *_case("every pixel in any gain, 1 thread", 2.1 + more, (1, 3), gains="mixed", geometry=geometry),
    ]


def plain_images() -> list[dict]:
    """Gain, pedestal and mask."""
    return _table(geometry=False)


def placed_images() -> list[dict]:
    """Gaps and geometry fused in."""
    return _table(geometry=True)


BENCHMARKS = [plain_images, placed_images]

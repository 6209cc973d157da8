"""The calibration kernel against `numpy.copyto` of an image of the same size.

Buffers are cycled through, more than 160 MB of them on each side, so that neither side finds its images in
the cache; the constants of a detector are as warm as they stay while its frames come in. A ratio is the
median over rounds of (median time of the kernel / median time of copyto).
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from sfdaq_ophyd.calibration import JungfrauCalibration

CYCLE_BYTES = 160 << 20
REPEATS = 40
ROUNDS = 5
DETECTORS = {1: "JF03T01V02", 3: "JF01T03V01", 16: "JF17T16V01"}


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


def _median(call, n_buffers: int) -> float:
    times = []
    for i in range(max(REPEATS, 2 * n_buffers)):
        start = time.perf_counter()
        call(i % n_buffers)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _ratio(n: int, gains: str, threads: int, stack: int | None, geometry: bool) -> tuple[float, float, float]:
    """Return ratio, and the times of kernel and copyto, ms."""
    calibration = JungfrauCalibration(
        DETECTORS[n], **_constants(n), n_threads=threads, geometry=geometry, gap_pixels=geometry
    )
    raw = _raw(n, gains)
    first = calibration.empty(stack)
    n_buffers = max(2, CYCLE_BYTES // (raw.nbytes * (stack or 1)) + 1)
    raws = [calibration_input(raw, stack) for _ in range(n_buffers)]
    outs = [first, *(calibration.empty(stack) for _ in range(max(1, CYCLE_BYTES // first.nbytes)))]
    sources = [calibration.empty(stack) for _ in outs]
    for array in outs + sources:
        array.fill(1)

    def copy(i):
        np.copyto(outs[i], sources[i])

    def calibrate(i):
        calibration(raws[i], out=outs[i % len(outs)])

    rounds = [(_median(calibrate, n_buffers), _median(copy, len(outs))) for _ in range(ROUNDS)]
    ratio = statistics.median(ours / theirs for ours, theirs in rounds)
    ours, theirs = (statistics.median(times) * 1e3 for times in zip(*rounds))
    return ratio, ours, theirs


def calibration_input(raw: np.ndarray, stack: int | None) -> np.ndarray:
    """Return a new array with the image, or a stack of it."""
    return raw.copy() if stack is None else np.repeat(raw[None], stack, axis=0)


def _case(
    words: str, bar: float, sizes, *, gains="sparse", threads=1, stack=None, geometry=False
) -> list[dict]:
    results = []
    for n in sizes:
        ratio, ours, theirs = _ratio(n, gains, threads, stack, geometry)
        modules = f"{n} module{'s' * (n > 1)}"
        where = ", gaps and geometry" if geometry else ""
        results.append(
            {
                "name": f"calibration, {modules}, {words}{where}",
                "ratio": round(ratio, 3),
                "bar": f"<= {bar:g}",
                "met": ratio <= bar,
                "baseline": "numpy.copyto of the same output",
                "note": f"{ours:.3f} ms against {theirs:.3f} ms",
            }
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

"""Appending 16M frames to a frame file, beside direct chunk writes with the same compression and threads."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from sfdaq_ophyd.files import _bitshuffle
from sfdaq_ophyd.files.frame_file import FrameFile
from sfdaq_ophyd.wire.frame import Frame, FrameFormat

SHAPE = (4362, 4148)
N_FRAMES = 12
THREADS = 2
ROUNDS = 5


def _images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.poisson(3, SHAPE).astype("u4") for _ in range(3)]


def _bare(path: Path, images: list[np.ndarray]) -> float:
    """Compress in threads, write chunks: nothing else."""
    started = time.perf_counter()
    with h5py.File(path, "w") as file, ThreadPoolExecutor(THREADS) as pool:
        shape = (1, *SHAPE)
        data = file.create_dataset(
            "data", (N_FRAMES, *SHAPE), "u4", maxshape=(None, *SHAPE), chunks=shape, **_bitshuffle.FILTER
        )
        pending: deque = deque()
        row = 0
        for k in range(N_FRAMES):
            pending.append(pool.submit(_bitshuffle.compress, images[k % len(images)]))
            while pending and (len(pending) > THREADS + 2 or pending[0].done() or k == N_FRAMES - 1):
                data.id.write_direct_chunk((row, 0, 0), pending.popleft().result())
                row += 1
        file.flush()
    return time.perf_counter() - started


def _ours(path: Path, images: list[np.ndarray]) -> float:
    started = time.perf_counter()
    file = FrameFile(path, FrameFormat(SHAPE, "u4", has_pulse_id=True), threads=THREADS)
    for k in range(N_FRAMES):
        file.append(Frame(images[k % len(images)], 1e9 + k, f"1:{k}", k))
    file.close()
    return time.perf_counter() - started


def frame_file_append() -> dict:
    """Frames per second of `FrameFile.append` over those of direct chunk writes."""
    images = _images()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for k in range(ROUNDS + 1):
            path = Path(folder) / f"{k}.h5"
            pair = [_bare, _ours] if k % 2 else [_ours, _bare]
            took = {}
            for function in pair:
                took[function] = function(path, images)
                path.unlink()
            if k:  # the first round warms up
                ratios.append(took[_bare] / took[_ours])
                rate = N_FRAMES / took[_ours]
    ratio = statistics.median(ratios)
    return {
        "name": "frame file: append of 16M uint32 frames",
        "ratio": round(ratio, 3),
        "bar": 0.8,
        "met": ratio >= 0.8,
        "baseline": f"h5py write_direct_chunk of bitshuffle-LZ4 chunks, {THREADS} threads",
        "note": f"{rate:.1f} frames/s with ids, SWMR and flush; median of {ROUNDS}",
    }


BENCHMARKS = [frame_file_append]

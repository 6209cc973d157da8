"""Appending 16M frames to a frame file, beside direct chunk writes with the same compression and threads.

And points of a device's store, with and without having them on the disk itself.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
import uuid
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from benchmarks.pairs import Ratio, interleave, result
from sfdaq_ophyd.devices._store import SYNC_PERIOD, FrameStore
from sfdaq_ophyd.files._hdf5 import chunk_filter
from sfdaq_ophyd.files.frame_file import FrameFile
from sfdaq_ophyd.wire import compression
from sfdaq_ophyd.wire.frame import Frame, FrameFormat

SHAPE = (4362, 4148)
N_FRAMES = 12
THREADS = 2
ROUNDS = 7
SMALL, SECONDS = (512, 1024), 6.0

FOLDER = os.environ.get("BENCH_FOLDER")
"""Where files are made; default: the system's folder for temporary ones."""


def _images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.poisson(3, SHAPE).astype("u4") for _ in range(3)]


def _bare(path: Path, images: list[np.ndarray]) -> float:
    """Compress in threads, write chunks: nothing else."""
    started = time.perf_counter()
    with h5py.File(path, "w") as file, ThreadPoolExecutor(THREADS) as pool:
        shape = (1, *SHAPE)
        data = file.create_dataset(
            "data",
            (N_FRAMES, *SHAPE),
            "u4",
            maxshape=(None, *SHAPE),
            chunks=shape,
            **chunk_filter(),
        )
        pending: deque = deque()
        row = 0
        for k in range(N_FRAMES):
            pending.append(pool.submit(compression.compress_bslz4, images[k % len(images)]))
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


def _anew(function, folder: str, *args):
    """Make a function that calls `function` with a new path each time, and leaves no file."""
    path = Path(folder) / f"{uuid.uuid4().hex}.h5"

    def call() -> float:
        try:
            return function(path, *args)
        finally:
            path.unlink(missing_ok=True)

    return call


def frame_file_append() -> dict:
    """Frames per second of `FrameFile.append` over those of direct chunk writes."""
    images = _images()
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        ours, bare = interleave([_anew(one, folder, images) for one in (_ours, _bare)], ROUNDS)
    return result(
        "frame file: append of 16M uint32 frames",
        Ratio(bare, ours),
        least=0.8,
        baseline=f"h5py write_direct_chunk of bitshuffle-LZ4 chunks, {THREADS} threads",
        note=f"{N_FRAMES / np.median(ours):.1f} frames/s with ids, SWMR and flush",
    )


def _stored(path: Path, images: list[np.ndarray], sync_period: float) -> float:
    """Take and save points for `SECONDS` as a device does; return the points per second."""
    store = FrameStore(path.parent, path.stem, FrameFormat(SMALL, "u2", True), 1, 2, sync_period)
    store.described(OrderedDict())
    n, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + SECONDS:
        store.append(Frame(images[n % len(images)], 1e9 + n, f"1:{n}", n))
        store.flush()
        for name, doc in store.documents(1):
            doc["run_start" if name == "stream_resource" else "descriptor"] = "as the RunEngine does"
        store.settle()
        n += 1
    rate = n / (time.perf_counter() - begun)
    store.close()
    for file in path.parent.glob(f"{path.stem}_*.h5"):
        file.unlink()
    return rate


def syncing() -> list[dict]:
    """What it costs to have points on the disk itself: every 5 s, every second, every point."""
    rng = np.random.default_rng(1)
    images = [rng.poisson(3, SMALL).astype("u2") for _ in range(8)]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        periods = (math.inf, SYNC_PERIOD, 1.0, 0.0)
        never, *others = interleave([_anew(_stored, folder, images, period) for period in periods], 3, 0)
    rows = (("every 5 s (default)", 0.8), ("every second", 0.5), ("every point", 0.0))
    return [
        result(
            f"frame store: 0.5M uint16 points, synced {words}",
            Ratio(rates, never),
            least=bar,
            baseline="the same, synced at the end of the staging only",
            note=f"{np.median(rates):.0f} points/s against {np.median(never):.0f}",
        )
        for rates, (words, bar) in zip(others, rows)
    ]


BENCHMARKS = [frame_file_append, syncing]

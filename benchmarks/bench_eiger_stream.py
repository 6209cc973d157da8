"""The Eiger's stream: headers, receiving and storing, decompressing beside libertem-dectris, a fly scan."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfdaq_ophyd.wire.compression import ArrayBytes
from sfdaq_ophyd.wire.eiger_stream import decode_message

from .eiger_sender import image, version_2
from .pairs import Ratio, interleave, result

FOLDER = os.environ.get("BENCH_FOLDER") or tempfile.gettempdir()
"""Where files are made; on a file system in memory there is no disk to wait for."""

PAIRS = int(os.environ.get("BENCH_PAIRS", 15))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3))
"""Fly scans in a row, each in turns with a bare recording."""

N_FRAMES = 300
SHAPE, DTYPE = (1062, 1028), "uint32"
"""Of the frames that are sent: an EIGER2 1M."""

CAPTURED = Path(__file__).parents[1] / "tests" / "data" / "eiger" / "stream2" / "diamond_16m" / "image.cbor"


def headers() -> list[dict]:
    """Decode the captured image of a 16M, and one of as many pixels that are not compressed at all."""
    small = CAPTURED.read_bytes()
    pixels = np.zeros((4362, 4148), "<u2")
    plain = ArrayBytes(pixels.shape, pixels.dtype, "none", 0, memoryview(pixels).cast("B"))
    large = bytes(version_2(1, [plain])[1][0])

    def decode(message: bytes, n: int = 500) -> float:
        begun = time.thread_time()  # one thread does it, and waits for nothing
        for _ in range(n):
            decode_message(message)
        return (time.thread_time() - begun) / n

    few, many = interleave([functools.partial(decode, message) for message in (small, large)], PAIRS)
    return [
        result(
            "Eiger stream: decode the message of a 16M frame and find its chunk",
            Ratio(few, np.full_like(few, 50e-6)),
            most=1.0,
            baseline="50 µs",
            note=f"{np.median(few) * 1e6:.0f} µs, captured message of {len(small) / 1e6:.1f} MB",
        ),
        result(
            f"Eiger stream: the same with {len(large) / 1e6:.0f} MB of pixels",
            Ratio(many, few),
            most=1.2,
            baseline=f"with {len(small) / 1e6:.1f} MB",
            note=f"{np.median(many) * 1e6:.0f} µs",
        ),
    ]


@contextlib.contextmanager
def sender(version: int) -> Iterator[str]:
    """Run `eiger_sender` in a child; give its endpoint."""
    what = (version, N_FRAMES, *SHAPE, DTYPE)
    command = [sys.executable, "-m", "benchmarks.eiger_sender", *map(str, what)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def received(way: str, *arguments: str) -> float:
    """Receive a series in one way of `eiger_receivers`, in a process of its own; return frames per second."""
    command = [sys.executable, "-m", "benchmarks.eiger_receivers", way, *arguments]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout)


def receive_and_store() -> list[dict]:
    """Into a frame file, as they came, beside a loop that drops them, and the disk with the same bytes."""
    chunk = image(SHAPE, DTYPE, 0).data

    def disk() -> float:
        with tempfile.NamedTemporaryFile(prefix="bench-", dir=FOLDER, buffering=0) as file:
            begun = time.perf_counter()
            for _ in range(N_FRAMES):
                file.write(chunk)
            os.fsync(file.fileno())
            return N_FRAMES / (time.perf_counter() - begun)

    with sender(2) as endpoint:
        writing = [functools.partial(received, way, endpoint, FOLDER) for way in ("plain", "store")]
        ways = [functools.partial(received, "bare", endpoint), disk, *writing]
        bares, disks, plain, ours = interleave(ways, PAIRS)
    megabytes = len(chunk) / 1e6
    speeds = ", ".join(
        f"{name} {np.median(figures) * megabytes:.0f} MB/s"
        for name, figures in (("ours", ours), ("bare", bares), ("disk", disks), ("a plain file", plain))
    )
    return [
        result(
            "Eiger stream: receive and store 1M frames",
            Ratio(ours, np.minimum(bares, disks)),
            least=0.8,
            limit=Ratio(plain, np.minimum(bares, disks)),
            baseline="bare pyzmq loop, or the disk with the same bytes, whichever is slower",
            note=f"{speeds}; to the bare loop alone {Ratio(ours, bares)}",
        )
    ]


def receive_and_decode() -> dict:
    """Decompress every frame, beside the fastest receiver that is published; it reads version 1."""
    with sender(2) as ours, sender(1) as theirs:
        ways = [functools.partial(received, "decode", ours), functools.partial(received, "libertem", theirs)]
        decoded, libertem = interleave(ways, PAIRS)
    return result(
        "Eiger stream: receive and decompress 1M frames",
        Ratio(decoded, libertem),
        least=1.0,
        baseline="libertem-dectris, the same frames in messages of version 1",
        note=f"{np.median(decoded):.0f} frames/s against {np.median(libertem):.0f}",
    )


@contextlib.contextmanager
def detector() -> Iterator[list[str]]:
    """Run a simulated 1M in a child; give the addresses of its control unit and its streams."""
    command = [sys.executable, "-m", "sfdaq_ophyd.sim.eiger", "--model", "1M", "--initialized"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1:]
        finally:
            process.terminate()


def fly_scan(n_frames: int = 2000, rate: int = 500) -> list[dict]:
    """Fly at 500 Hz into RunEngine, file and catalog: how many frames are there, and what memory it took.

    In turns with a loop that writes the same messages into a plain file; each has a new simulator.
    """
    from bluesky import RunEngine

    from sfdaq_ophyd import setup
    from sfdaq_ophyd.catalog import embedded_catalog
    from sfdaq_ophyd.clients.eiger_stream import HIGH_WATER, MAX_BYTES
    from sfdaq_ophyd.devices import Eiger
    from sfdaq_ophyd.plans import fly

    seconds: list[float] = []
    peaks: list[int] = []
    memory: list[int] = []
    moments: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=FOLDER) as folder,
        embedded_catalog(Path(folder) / "catalog") as catalog,
    ):
        engine = RunEngine(context_managers=[])
        setup(engine, catalog)

        def note(name: str, doc: dict) -> None:
            moments.append(time.perf_counter())
            memory.append(resident())

        engine.subscribe(note, "descriptor")
        engine.subscribe(note, "event_page")
        before = resident()

        def scan() -> float:
            with (
                detector() as (url, stream, *_),
                tempfile.TemporaryDirectory(prefix="frames-", dir=folder) as frames,
            ):
                eiger = Eiger(url, name="eiger", directory=frames, readout="stream", stream=stream)
                eiger.exposure_time.put(0.9 / rate)
                eiger.frame_time.put(1 / rate)
                eiger.loss_policy.put("tolerant")
                memory.clear()
                moments.clear()
                (uid,) = engine(fly([eiger], n_frames))
                catalog.flush()
                seconds.append(moments[-1] - moments[0])
                peaks.append(max(memory) - before)
                run = catalog[uid]["primary"]
                ids, good = (run[f"eiger_{name}"].read() for name in ("event_id", "is_good"))
                n_stored = run["eiger_image"].shape[0]
            series = str(ids[0]).partition("_")[0]
            rows = enumerate(zip(ids, good))
            n_there = sum(str(found) == f"{series}_{k}" and bool(well) for k, (found, well) in rows)
            return min(n_there, n_stored) / n_frames

        def plainly() -> float:
            with detector() as (url, stream, *_):
                return received("flown", stream, folder, url, str(n_frames), str(rate))

        ours, plain = interleave([scan, plainly], ROUNDS, warm_up=0)
    bound = MAX_BYTES + HIGH_WATER * SHAPE[0] * SHAPE[1] * np.dtype(DTYPE).itemsize
    name = f"fly scan of {n_frames} frames 1M at {rate} Hz into RunEngine, file and catalog"
    return [
        result(
            f"Eiger stream: {name}",
            Ratio([round(ours.sum() * n_frames)], [ROUNDS * n_frames]),
            least=1.0,
            limit=Ratio([plain.mean()], [1.0]),
            baseline="frames asked for",
            note=f"{ROUNDS} scans of {min(ours):.3g} to {max(ours):.3g} in the catalog; "
            f"{min(seconds):.1f} to {max(seconds):.1f} s, {n_frames / rate:g} s exposed; limit: a loop that "
            "writes the messages to a plain file, in turns with the scans, "
            f"{min(plain):.3g} to {max(plain):.3g}",
        ),
        {
            "name": "Eiger stream: memory, the same fly scan",
            "ratio": max(peaks) / bound,
            "bar": "<= 1",
            "met": max(peaks) <= bound,
            "baseline": f"messages that may be held, {bound / 2**20:.0f} MiB",
            "note": "more than before at most, scan by scan: "
            f"{', '.join(f'{peak / 2**20:.0f}' for peak in peaks)} MiB",
        },
    ]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


BENCHMARKS = [headers, receive_and_store, receive_and_decode, fly_scan]

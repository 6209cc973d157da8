"""The Eiger's stream: headers, receiving and storing, and decompressing beside libertem-dectris."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfdaq_ophyd.wire.cbor import ArrayBytes
from sfdaq_ophyd.wire.eiger_stream import decode_message

from .eiger_sender import image, version_2
from .pairs import Ratio, interleave, result

FOLDER = os.environ.get("BENCH_FOLDER") or tempfile.gettempdir()
"""Where files are made; on a file system in memory there is no disk to wait for."""

PAIRS = int(os.environ.get("BENCH_PAIRS", 15))
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
        ways = [functools.partial(received, "bare", endpoint), disk]
        bares, disks, ours = interleave(
            [*ways, functools.partial(received, "store", endpoint, FOLDER)], PAIRS
        )
    megabytes = len(chunk) / 1e6
    speeds = ", ".join(
        f"{name} {np.median(figures) * megabytes:.0f} MB/s"
        for name, figures in (("ours", ours), ("bare", bares), ("disk", disks))
    )
    return [
        result(
            "Eiger stream: receive and store 1M frames",
            Ratio(ours, np.minimum(bares, disks)),
            least=0.8,
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


BENCHMARKS = [headers, receive_and_store, receive_and_decode]

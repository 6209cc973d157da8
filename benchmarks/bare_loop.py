"""Child of the stream benchmarks: a bare pyzmq loop, and ours beside it, each in a process of its own.

``python -m benchmarks.bare_loop bare|copy|ours ENDPOINT...`` receives until every port has ended, and prints
module frames per second, from the first to the last: received and dropped; copied into one buffer, which is
what the memory of two cores allows at the most; or matched and handed on in whole images.

``python -m benchmarks.bare_loop write FOLDER N_IMAGES ENDPOINT...`` receives so many images, has two threads
compress each module's, and writes that to a plain file on the disk itself: the least that a recording has to
do. It prints images per second, and the share of the images that came.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import zmq

from sfdaq_ophyd.clients import ModuleStream
from sfdaq_ophyd.wire.compression import compress_bslz4
from sfdaq_ophyd.wire.module_header import ModuleHeader


def subscribed(endpoints: list[str]) -> tuple[zmq.Context, zmq.Poller]:
    context, poller = zmq.Context(), zmq.Poller()
    for endpoint in endpoints:
        socket = context.socket(zmq.SUB)
        socket.connect(endpoint)
        socket.subscribe(b"")
        poller.register(socket, zmq.POLLIN)
    return context, poller


def bare(endpoints: list[str], into: np.ndarray | None = None) -> float:
    context, poller = subscribed(endpoints)
    n = n_ended = 0
    begin = None
    while n_ended < len(endpoints):
        for socket, _ in poller.poll(10_000):
            begin = begin or time.perf_counter()
            parts = socket.recv_multipart(copy=False)
            if len(parts) == 1:
                n_ended += 1
                continue
            n += 1
            if into is not None:
                np.copyto(into[n % len(into)], np.frombuffer(parts[1], into.dtype))
    rate = n / (time.perf_counter() - begin)
    context.destroy(linger=0)
    return rate


def copy(endpoints: list[str]) -> float:
    return bare(endpoints, np.zeros((4, 512 * 1024), "u2"))


def write(folder: str, n_images: int, endpoints: list[str]) -> tuple[float, float]:
    context, poller = subscribed(endpoints)
    first = begin = None
    n, over, pending = 0, set(), deque[Future]()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file, ThreadPoolExecutor(2) as pool:
        while len(over) < len(endpoints):
            for socket, _ in poller.poll(10_000):
                parts = socket.recv_multipart(copy=False)
                if len(parts) == 1:
                    continue
                number = ModuleHeader.decode(parts[0].buffer).frame_number
                first, begin = (number, time.perf_counter()) if first is None else (first, begin)
                if first <= number < first + n_images:
                    n += 1
                    pending.append(pool.submit(compress_bslz4, np.frombuffer(parts[1], "u2")))
                if number >= first + n_images - 1:
                    over.add(socket)
            while pending and (pending[0].done() or len(pending) > 8 or len(over) == len(endpoints)):
                file.write(pending.popleft().result())
        os.fsync(file.fileno())
    n /= len(endpoints)
    rate = n / (time.perf_counter() - begin)
    context.destroy(linger=0)
    return rate, n / n_images


def ours(endpoints: list[str]) -> float:
    times, n_ended, over = [], 0, threading.Event()
    stream = ModuleStream(endpoints)

    def take(frame):
        if frame is not None and frame.is_good:
            times.append(time.perf_counter())

    stream.subscribe(take)
    with stream:
        assembler = stream._assembler  # noqa: SLF001
        end = assembler.end

        def ended(port):
            nonlocal n_ended
            end(port)
            n_ended += 1
            if n_ended == len(endpoints):
                over.set()

        assembler.end = ended
        if not over.wait(120):
            raise RuntimeError(f"{len(times)} frames: {stream.describe_state()}")
        if stream.counters["incomplete"]:
            raise RuntimeError(stream.describe_state())
    return len(endpoints) * (len(times) - 1) / (times[-1] - times[0])


if __name__ == "__main__":
    which, *endpoints = sys.argv[1:]
    if which == "write":
        folder, n_images, *endpoints = endpoints
        print(*write(folder, int(n_images), endpoints))
    else:
        print({"bare": bare, "copy": copy, "ours": ours}[which](endpoints))

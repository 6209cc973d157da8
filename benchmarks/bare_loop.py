"""Child of the stream benchmarks: a bare pyzmq loop, and ours beside it, each in a process of its own.

``python -m benchmarks.bare_loop bare|copy|ours ENDPOINT...`` receives until every port has ended, and prints
module frames per second, from the first to the last: received and dropped; copied into one buffer, which is
what the memory of two cores allows at the most; or matched and handed on in whole images.
"""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import zmq

from sfdaq_ophyd.clients import ModuleStream


def bare(endpoints: list[str], into: np.ndarray | None = None) -> float:
    context, poller = zmq.Context(), zmq.Poller()
    for endpoint in endpoints:
        socket = context.socket(zmq.SUB)
        socket.connect(endpoint)
        socket.subscribe(b"")
        poller.register(socket, zmq.POLLIN)
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
    print({"bare": bare, "copy": copy, "ours": ours}[which](endpoints))

"""Child of the stream benchmarks: the bare pyzmq loop that ours is compared with, in a process of its own.

``python -m benchmarks.bare_loop ENDPOINT...`` receives and drops until every port has ended, and prints
module frames per second.
"""

from __future__ import annotations

import sys
import time

import zmq


def bare_loop(endpoints: list[str]) -> float:
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
            if len(socket.recv_multipart(copy=False)) == 1:
                n_ended += 1
            else:
                n += 1
    rate = n / (time.perf_counter() - begin)
    context.destroy(linger=0)
    return rate


if __name__ == "__main__":
    print(bare_loop(sys.argv[1:]))

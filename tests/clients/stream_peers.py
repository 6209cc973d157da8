"""The other end of an image stream, for tests: PUB sockets that know when somebody listens."""

from __future__ import annotations

import time

import zmq


class Publisher:
    """`n` PUB sockets on free ports; or one PUSH."""

    def __init__(self, n=1, *, push=False, high_water=0):
        self.context = zmq.Context()
        self.sockets, self.high_water = [], high_water
        for _ in range(n):
            socket = self.context.socket(zmq.PUSH if push else zmq.XPUB)
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.SNDHWM, high_water)
            if not push:
                socket.set(zmq.XPUB_VERBOSE, 1)
            socket.bind("tcp://127.0.0.1:*")
            self.sockets.append(socket)
        self.endpoints = [socket.get(zmq.LAST_ENDPOINT).decode() for socket in self.sockets]

    def wait_subscribed(self, timeout=60):
        for socket in self.sockets:
            if not socket.poll(timeout * 1000, zmq.POLLIN):
                raise AssertionError(f"nobody subscribed within {timeout} s")
            socket.recv()

    def send(self, port, *parts):
        self.sockets[port].send_multipart([bytes(part) for part in parts])

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.context.destroy(linger=0)


def collect(queue, n, timeout=60):
    """Return the next `n` frames."""
    deadline = time.monotonic() + timeout
    return [queue.get(max(0.01, deadline - time.monotonic())) for _ in range(n)]

"""The other end of an image stream, for tests: PUB sockets that know when somebody listens."""

from __future__ import annotations

import queue
import time

import zmq

from sfdaq_ophyd.wire.module_header import ModuleHeader

SHAPE = (4, 8)
PIXELS = bytes(64)


class Refilled(queue.SimpleQueue):
    """A queue in which the next item lies whenever one is taken: what fills it is faster than we are."""

    n_taken = 0

    def get(self, block=True, timeout=None):
        item = super().get(block, timeout)
        self.n_taken += 1
        assert self.n_taken < 1000, "it is read until it is empty, which it never is"
        self.put(item)
        return item

    def get_nowait(self):
        return self.get(block=False)


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

    def wait_subscribed(self, timeout=60, ports=None):
        """Wait for one more subscription to each socket; ends of earlier ones are passed over."""
        for port in range(len(self.sockets)) if ports is None else ports:
            socket = self.sockets[port]
            message = b"\0"
            while message[:1] != b"\1":
                if not socket.poll(timeout * 1000, zmq.POLLIN):
                    raise AssertionError(f"nobody subscribed within {timeout} s")
                message = socket.recv()

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


def small_header(number, port=0, n_ports=2, **fields):
    blocks = {"row": port, "detector_blocks": (n_ports, 1), "shape": SHAPE}
    return ModuleHeader(frame_number=number, frame_index=1, **blocks, **fields).encode()


def send_small(peer, *numbers, ports=(0, 1), **fields):
    for number in numbers:
        for port in ports:
            peer.send(port, small_header(number, port, **fields), PIXELS)

"""The line between a simulated Eiger's stream and a device, on which messages get lost or changed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import zmq

from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.wire.eiger_stream import SeriesEnd, SeriesImage, SeriesStart, decode_message

from ..run_engine_driver import streams


def as_it_is(message, data):
    """Every message once, and at once."""
    return [data]


class Line:
    """Takes every message of a stream, and sends on what `change` makes of it.

    Attributes
    ----------
    change : callable
        Of the decoded message and its bytes; returns a list of bytes, or of lists of parts.
    """

    def __init__(self, endpoint: str):
        self.change: Callable = as_it_is
        self._endpoint = endpoint
        self._context = zmq.Context()
        self._from, self._to = self._context.socket(zmq.PULL), self._context.socket(zmq.PUSH)
        self._from.connect(endpoint)
        self.endpoint = f"tcp://127.0.0.1:{self._to.bind_to_random_port('tcp://127.0.0.1')}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="line", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if not self._from.poll(50):
                continue
            data = self._from.recv()
            for parts in self.change(decode_message(data), data):
                with contextlib.suppress(zmq.Again):
                    self._to.send_multipart(parts if isinstance(parts, list) else [parts], zmq.NOBLOCK)

    def unplug(self) -> None:
        """Leave the detector; called by `change`."""
        with contextlib.suppress(zmq.ZMQError):  # it was left before
            self._from.disconnect(self._endpoint)

    def close(self) -> None:
        self._over.set()
        self._thread.join(60)
        self._context.destroy(linger=0)


class Lost:
    """Loses the start, the end, or images of some numbers; the first `count` times, or always."""

    def __init__(self, *what: object, count: float = float("inf")):
        self._what, self.left = what, count

    def __call__(self, message, data):
        kinds = {SeriesStart: "start", SeriesEnd: "end"}
        name = message.image_id if isinstance(message, SeriesImage) else kinds[type(message)]
        if name in self._what and self.left > 0:
            self.left -= 1
            return []
        return [data]


class Moved:
    """Sends image `number` after the message that follows it."""

    def __init__(self, number: int):
        self._number, self._held = number, []

    def __call__(self, message, data):
        if isinstance(message, SeriesImage) and message.image_id == self._number:
            self._held = [data]
            return []
        held, self._held = self._held, []
        return [data, *held]


class Changed:
    """Sends something else in place of image `number`."""

    def __init__(self, number: int, change: Callable[[bytes], list]):
        self._number, self._change = number, change

    def __call__(self, message, data):
        if isinstance(message, SeriesImage) and message.image_id == self._number:
            return self._change(data)
        return [data]


class Shared:
    """Another client takes every other message, by turns."""

    def __init__(self):
        self._n = 0

    def __call__(self, message, data):
        self._n += 1
        return [data] if self._n % 2 else []


def fly_scan(eiger, n=6):
    return lambda: fly([eiger], n, period=0.01)


def rows_of(run):
    return streams(run)["primary"].rows

"""Drive an `Assembler` without sockets: say which port sends which frame, and look at what comes out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import zmq

from sfdaq_ophyd.clients._intake import Foreign, Message
from sfdaq_ophyd.clients.module_stream import Assembler
from sfdaq_ophyd.clients.ring import Full
from sfdaq_ophyd.wire.module_header import ModuleHeader

ROWS, COLUMNS = 4, 8


class Driver:
    """`n_ports` blocks of 4 x 8 pixels, one above the other; every block holds its number and frame number.

    Frames are copied, unless `hold`: then they keep their ring buffers. A message for which there is no
    buffer is tried again every 0.1 s.
    """

    def __init__(self, n_ports=2, *, blocks=None, hold=False, **options):
        self.blocks = (n_ports, 1) if blocks is None else blocks
        self.frames = []
        self.now = 1000.0
        self.problems = []
        endpoints = [f"tcp://port:{i}" for i in range(n_ports)]
        keep = self.frames.append if hold else self._copy
        self.assembler = Assembler(endpoints, keep, **{"max_hold": 0, **options})

    def _copy(self, frame):
        self.frames.append(replace(frame, image=frame.image.copy()))

    def header(self, port, number, *, pulse_id=0, **fields):
        row, column = divmod(port, self.blocks[1])
        return ModuleHeader(
            **{
                "frame_number": number,
                "row": row,
                "column": column,
                "detector_blocks": self.blocks,
                "shape": (ROWS, COLUMNS),
                "frame_index": 1,
                "det_spec1": pulse_id or 0,
                **fields,
            }
        )

    def send(self, port, number, *, at=None, dt=0.0, block=None, **fields):
        """One module frame from `port`, `dt` after the last one."""
        self.now = self.now + dt if at is None else at
        header = self.header(port if block is None else block, number, **fields)
        pixels = np.full(header.shape, pixel(port, number), "u2")
        parts = [zmq.Frame(header.encode()), zmq.Frame(pixels.tobytes())]
        message = Message(port, parts, self.now + 5e8, self.now, 0.0)
        try:
            self.assembler.announce(message)
        except Foreign as exc:
            self.problems.append(str(exc))
            self.assembler.counters["foreign"] += 1
            return
        while True:
            try:
                return self.assembler.put(message)
            except Full:
                self.wait(0.1)

    def both(self, *numbers, dt=0.01, ports=None, **fields):
        """Frames from all ports."""
        for number in numbers:
            self.now += dt
            for port in range(len(self.assembler.ports)) if ports is None else ports:
                self.send(port, number, **fields)

    def end(self, *ports):
        for port in ports or range(len(self.assembler.ports)):
            self.assembler.end(port)

    def wait(self, seconds):
        self.now += seconds
        self.assembler.settle(self.now)

    @property
    def counters(self):
        return {name: n for name, n in self.assembler.counters.items() if n}

    @property
    def numbers(self):
        return [frame.frame_number for frame in self.frames]

    def check_pixels(self):
        """Every block holds what its port sent for this frame, or 0xFFFF where it is missing."""
        for frame in self.frames:
            for port in range(len(self.assembler.ports)):
                row, column = divmod(port, self.blocks[1])
                block = frame.image[row * ROWS : (row + 1) * ROWS, column * COLUMNS : (column + 1) * COLUMNS]
                expected = 0xFFFF if port in frame.missing else pixel(port, frame.frame_number)
                assert np.all(block == expected), (frame.frame_number, port)


def pixel(port, number):
    return (port * 4099 + number) % 65535

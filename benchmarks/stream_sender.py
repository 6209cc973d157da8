"""Child of the stream benchmarks: send module frames, as fast as the receiver takes them or in real time.

``python -m benchmarks.stream_sender N_PORTS N_FRAMES RATE [LAG [N_RUNS]]`` prints its endpoints as JSON and
waits until every port has a subscriber; then it sends N_RUNS acquisitions with the same frame numbers, and
waits for the next subscribers. RATE 0: as fast as possible, and nothing is dropped. LAG: frames by which port
1 is behind.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import zmq

from sfdaq_ophyd.wire.module_header import ModuleHeader


def headers(n_ports: int, numbers: range, acquisition: int) -> list[list[bytes]]:
    return [
        [
            ModuleHeader(
                frame_number=n,
                row=port,
                detector_blocks=(n_ports, 1),
                det_spec1=21125820000 + 10**6 * acquisition + n,
                ticks=n * 100_000,
                frame_index=n - numbers[0],
                rx_roi=(0, 1023, 0, 511),
            ).encode()
            for port in range(n_ports)
        ]
        for n in numbers
    ]


def main(n_ports: int, n_frames: int, rate: float, lag: int = 0, n_runs: int = 1) -> None:
    context = zmq.Context()
    sockets = []
    for _ in range(n_ports):
        socket = context.socket(zmq.XPUB)
        socket.set(zmq.SNDHWM, 1000 if rate else 16)
        socket.set(zmq.XPUB_NODROP, 0 if rate else 1)
        socket.set(zmq.XPUB_VERBOSE, 1)
        socket.bind("tcp://127.0.0.1:*")
        sockets.append(socket)
    print(json.dumps([socket.get(zmq.LAST_ENDPOINT).decode() for socket in sockets]), flush=True)
    pixels = [np.random.default_rng(k).integers(2800, 3100, 512 * 1024, "u2") for k in range(8)]
    runs = [headers(n_ports, range(1, n_frames + 1), run) for run in range(n_runs)]
    timeline = [step for run in runs for step in (*run, None)]
    end = ModuleHeader.end().encode()
    while True:
        for socket in sockets:
            while socket.recv() != b"\1":
                pass
        begin = time.perf_counter()
        for k in range(len(timeline) + lag):
            if rate:
                time.sleep(max(0.0, begin + k / rate - time.perf_counter()))
            for port, socket in enumerate(sockets):
                at = k - (lag if port == 1 else 0)
                if not 0 <= at < len(timeline):
                    continue
                if timeline[at] is None:
                    socket.send(end)
                else:
                    socket.send(timeline[at][port], zmq.SNDMORE)
                    socket.send(pixels[(at + port) % 8], copy=False)


if __name__ == "__main__":
    n_ports, n_frames, rate, *more = sys.argv[1:]
    main(int(n_ports), int(n_frames), float(rate), *map(int, more))

"""Child of the Eiger's benchmarks: send series of compressed frames, as fast as they are taken.

``python -m benchmarks.eiger_sender VERSION N_FRAMES ROWS COLUMNS DTYPE`` prints its endpoint and sends a
whole series to every client that connects, one after the other; VERSION is 1 or 2. Nothing is dropped. Each
frame has the same 8 images, Poisson noise of 3 counts, with a tenth of the pixels masked; they are made once.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

import numpy as np
import zmq
from zmq.utils.monitor import parse_monitor_message

from sfdaq_ophyd.wire import compression
from sfdaq_ophyd.wire.cbor import Date
from sfdaq_ophyd.wire.compression import ArrayBytes
from sfdaq_ophyd.wire.eiger_stream import TICKS, encode_message
from sfdaq_ophyd.wire.tiff import format_time_ns

SERIES, UID = 7, "01HRC2B9XAX6MSD3G7MR8F9J5D"


def image(shape: tuple[int, int], dtype: str, seed: int) -> ArrayBytes:
    rng = np.random.default_rng(seed)
    pixels = rng.poisson(3, shape).astype(dtype)
    pixels[: shape[0] // 10] = np.iinfo(dtype).max
    block = compression.BLOCK_BYTES // pixels.itemsize
    packed = bytes(compression.compress_bslz4(pixels, block))
    return ArrayBytes(shape, pixels.dtype, "bslz4", pixels.itemsize, memoryview(packed))


def version_2(n_frames: int, images: list[ArrayBytes]) -> list[list[bytes | memoryview]]:
    ids = {"series_id": SERIES, "series_unique_id": UID}
    rows, columns = images[0].shape
    start = {
        "channels": ["threshold_1"],
        "image_size_x": columns,
        "image_size_y": rows,
        "image_dtype": str(images[0].dtype),
        "number_of_images": n_frames,
    }
    date = Date(format_time_ns(time.time_ns(), offset_minutes=0))
    messages = [encode_message({"type": "start"} | ids | start)]
    for k in range(n_frames):
        ticks = k * TICKS // 500
        times = {"real_time": [99_000, TICKS], "series_date": date, "start_time": [ticks, TICKS]}
        data = {"threshold_1": images[k % len(images)]}
        head = {"type": "image"} | ids | {"image_id": k} | times | {"stop_time": [ticks + 99_000, TICKS]}
        messages.append(encode_message(head | {"data": data}))
    messages.append(encode_message({"type": "end"} | ids))
    return [[message] for message in messages]


def version_1(n_frames: int, images: list[ArrayBytes]) -> list[list[bytes | memoryview]]:
    def part(**fields: object) -> bytes:
        return json.dumps(fields).encode()

    rows, columns = images[0].shape
    config = {
        "bit_depth_image": 8 * images[0].dtype.itemsize,
        "nimages": n_frames,
        "ntrigger": 1,
        "trigger_mode": "ints",
        "x_pixels_in_detector": columns,
        "y_pixels_in_detector": rows,
    }
    messages: list[list[bytes | memoryview]] = [
        [part(htype="dheader-1.0", series=SERIES, header_detail="basic"), part(**config)]
    ]
    for k in range(n_frames):
        array = images[k % len(images)]
        about = part(
            htype="dimage_d-1.0",
            shape=[columns, rows],
            type=str(array.dtype),
            encoding=f"bs{8 * array.dtype.itemsize}-lz4<",
            size=len(array.data),
        )
        digest = hashlib.md5(about, usedforsecurity=False).hexdigest()
        head = part(htype="dimage-1.0", series=SERIES, frame=k, hash=digest)
        times = part(
            htype="dconfig-1.0",
            start_time=2_000_000 * k,
            stop_time=2_000_000 * k + 1_980_000,
            real_time=1_980_000,
        )
        messages.append([head, about, array.data, times])
    messages.append([part(htype="dseries_end-1.0", series=SERIES)])
    return messages


def wait_for(monitor: zmq.Socket, event: int) -> None:
    while parse_monitor_message(monitor.recv_multipart())["event"] != event:
        pass


def main(version: str, n_frames: int, shape: tuple[int, int], dtype: str) -> None:
    images = [image(shape, dtype, seed) for seed in range(8)]
    messages = {"1": version_1, "2": version_2}[version](n_frames, images)
    socket = zmq.Context().socket(zmq.PUSH)
    socket.set(zmq.SNDHWM, 16)
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    socket.bind("tcp://127.0.0.1:*")
    print(socket.get(zmq.LAST_ENDPOINT).decode(), flush=True)
    while True:
        wait_for(monitor, zmq.EVENT_HANDSHAKE_SUCCEEDED)
        for message in messages:
            socket.send_multipart(message, copy=False)
        wait_for(monitor, zmq.EVENT_DISCONNECTED)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), (int(sys.argv[3]), int(sys.argv[4])), sys.argv[5])

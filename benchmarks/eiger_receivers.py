"""Child of the Eiger's benchmarks: one way to receive a series, in a process of its own.

``python -m benchmarks.eiger_receivers WAY ENDPOINT [FOLDER]`` prints frames per second, from the start
message to when the last frame is done. WAY is bare (a pyzmq loop that drops messages), plain (one that writes
them into a plain file), store (ours, into a frame file), decode (ours, decompressed), or libertem
(libertem-dectris, decompressed; it reads version 1). What is written is on the disk itself then.

``python -m benchmarks.eiger_receivers flown ENDPOINT FOLDER URL N_FRAMES HZ`` has a detector make a series at
its own pace, writes what comes into a plain file, and prints the share of the frames that came.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zmq

from benchmarks.bench_simulators import putter
from sfdaq_ophyd.clients import EigerStream
from sfdaq_ophyd.clients.eiger_stream import EigerFrame, Series
from sfdaq_ophyd.files.frame_file import FrameFile
from sfdaq_ophyd.wire.frame import FrameFormat

THREADS = 2


def bare(endpoint: str, folder: str = "") -> float:
    socket = zmq.Context().socket(zmq.PULL)
    socket.connect(endpoint)
    with tempfile.TemporaryFile(dir=folder or None, buffering=0) as file:
        socket.recv(copy=False)
        begun, n_frames = time.perf_counter(), 0
        while len(message := socket.recv(copy=False)) > 1000:  # the end has less
            n_frames += 1
            if folder:
                file.write(message.buffer)
        if folder:
            os.fsync(file.fileno())
        return n_frames / (time.perf_counter() - begun)


def flown(endpoint: str, folder: str, url: str, n_frames: str, rate: str) -> float:
    n, n_asked, frame_time = 0, int(n_frames), 1 / float(rate)
    put = putter(url)
    put("stream/api/1.8.0/config/format", "cbor")
    put("stream/api/1.8.0/config/mode", "enabled")
    put("detector/api/1.8.0/config/nimages", n_asked)
    put("detector/api/1.8.0/config/count_time", 0.9 * frame_time)
    put("detector/api/1.8.0/config/frame_time", frame_time)
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as socket,
        tempfile.TemporaryFile(dir=folder, buffering=0) as file,
        ThreadPoolExecutor(1) as pool,
    ):
        socket.connect(endpoint)
        put("detector/api/1.8.0/command/arm")
        while not socket.poll(100):  # its start came before it was connected
            put("detector/api/1.8.0/command/arm")
        done = pool.submit(put, "detector/api/1.8.0/command/trigger")
        while n < n_asked and (socket.poll(500) or not done.done()):
            while n < n_asked and socket.poll(0):
                message = socket.recv(copy=False)
                if len(message) > 10_000:  # not a start, nor an end
                    n += 1
                    file.write(message.buffer)
        done.result()
        os.fsync(file.fileno())
    return n / n_asked


class Ours:
    """A whole series, and how long it took."""

    def __init__(self, endpoint: str):
        self._stream, self._begun, self._n_images = EigerStream(endpoint), 0.0, 0
        self._stream.on_series = self._note

    def _note(self, series: Series) -> None:
        if series.start is not None and not self._begun:
            self._begun, self._n_images = time.perf_counter(), series.start.number_of_images or 0

    def __iter__(self) -> Iterator[EigerFrame]:
        with self._stream.frames(60) as queue, self._stream:
            for k, frame in enumerate(queue):
                assert frame.image_id == k
                yield frame
                if k == self._n_images - 1:
                    return

    def rate(self) -> float:
        return self._n_images / (time.perf_counter() - self._begun)


def store(endpoint: str, folder: str) -> float:
    ours, file = Ours(endpoint), None
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as place:
        FrameFile(Path(place) / "first.h5", FrameFormat((8, 8), "u4")).close()  # HDF5 is imported by this
        path = Path(place) / "frames.h5"
        for frame in ours:
            if file is None:
                array = frame.packed["image"]
                file = FrameFile(path, FrameFormat(array.shape, array.dtype))
            file.append(frame)
        assert file is not None
        file.close()
        with open(path, "rb") as written:
            os.fsync(written.fileno())
        return ours.rate()


def decode(endpoint: str) -> float:
    ours, pending = Ours(endpoint), deque[Future]()
    with ThreadPoolExecutor(THREADS) as pool:
        for frame in ours:
            pending.append(pool.submit(_last_pixel, frame))
            while len(pending) > 2 * THREADS:
                pending.popleft().result()
        for future in pending:
            future.result()
        return ours.rate()


def _last_pixel(frame: EigerFrame) -> int:
    return int(frame.pixels[-1, -1])


def libertem(endpoint: str) -> float:
    import libertem_dectris

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        connection = libertem_dectris.DectrisConnection(
            uri=endpoint,
            handle_path=f"{folder}/memory",
            frame_stack_size=32,
            num_slots=200,
            bytes_per_frame=1 << 20,
            huge=False,
        )
        connection.start_passive()
        assert connection.wait_for_arm(timeout=60.0) is not None
        begun, n_frames, out = time.perf_counter(), 0, None
        client = libertem_dectris.CamClient(handle_path=connection.get_socket_path())
        while (stack := connection.get_next_stack(max_size=32)) is not None and len(stack):
            if out is None:
                out = np.zeros((32, *stack.get_shape()), stack.get_dtype_string())
            n_frames += len(stack)
            client.decode_range_into_buffer(stack, out[: len(stack)], 0, len(stack))
            client.done(stack)
        seconds = time.perf_counter() - begun
        client.close()
        connection.close()
    return n_frames / seconds


if __name__ == "__main__":
    way, *arguments = sys.argv[1:]
    ways = {"bare": bare, "plain": bare, "flown": flown, "store": store, "decode": decode}
    print((ways | {"libertem": libertem})[way](*arguments))

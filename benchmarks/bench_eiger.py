"""The Eiger: TIFF to array, monitor fetch, memory of a fetch, and the cost of an event."""

from __future__ import annotations

import contextlib
import io
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import tifffile

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.wire import tiff
from sfdaq_ophyd.wire.tiff_write import TiffTags, encode

from .pairs import NEAR, Ratio, interleave, result, timed

SHAPE_16M = (4362, 4148)
TAGS = TiffTags(7, 42, "01HXV58VJYZ4N6P8QRAVBCDEFG", 1715677196123000000)
PROFILE = Path(__file__).parent / "profile_eiger_event.txt"


@contextlib.contextmanager
def simulator(*options):
    """A simulated detector in a process of its own."""
    command = [sys.executable, "-m", "sfdaq_ophyd.sim.eiger", "--initialized", *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = child.stdout.readline().split()
        assert line and line[0] == "READY", line
        yield line[1]
    finally:
        child.terminate()
        child.wait(20)


def tiff_to_array():
    """Decode a 16M uint32 frame, a small one, and the 16M with tifffile, in turns."""
    data = encode(np.ones(SHAPE_16M, "u4"), TAGS)
    small = encode(np.ones((43, 41), "u4"), TAGS)
    assert np.shares_memory(tiff.decode(data).image, np.frombuffer(data, "u1")), "the pixels were copied"

    def decode(data, n=100):
        begun = time.thread_time()  # one thread does it, and waits for nothing
        for _ in range(n):
            tiff.decode(data)
        return (time.thread_time() - begun) / n

    def read():
        begun = time.thread_time()
        tifffile.imread(io.BytesIO(data))
        return time.thread_time() - begun

    ours, little, theirs = interleave([lambda: decode(data), lambda: decode(small), read], rounds=15)
    return [
        result(
            "TIFF of 16M uint32 to array",
            Ratio(theirs, ours),
            least=20,
            baseline=f"tifffile.imread {np.median(theirs) * 1e3:.1f} ms",
            note=f"ours {np.median(ours) * 1e6:.0f} us; the pixels are shared with the bytes",
        ),
        result(
            "TIFF to array, 10000 times more pixels",
            Ratio(ours, little),
            most=2,
            baseline="a frame of 43 x 41 pixels",
            note="O(1) in frame size: time of a 16M frame over time of the small one",
        ),
    ]


def take_one(client, exposure=0.02):
    """Leave one frame in the monitor; `images/monitor` gives it again and again."""
    client.put("detector", "count_time", exposure)
    client.put("detector", "frame_time", exposure + 1e-7)
    client.put("monitor", "mode", "enabled")
    client.arm()
    client.trigger(exposure)
    assert client.newest_image(20.0) is not None


def monitor_fetch():
    """Fetch 16M uint32 frames over loopback, against a bare socket into one buffer."""
    with simulator("--model", "16M") as url:
        client = SimplonClient(url)
        take_one(client)
        size = 0
        host, port = url.removeprefix("http://").split(":")
        request = f"GET /monitor/api/1.8.0/images/monitor HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        with socket.create_connection((host, int(port))) as sock:
            buffer = memoryview(bytearray(80 * 2**20))

            def bare():
                nonlocal size
                sock.sendall(request)
                n, size = 0, 0
                while not size or n < size:
                    n += sock.recv_into(buffer[n:])
                    if not size:
                        head = bytes(buffer[:n]).split(b"\r\n\r\n")[0]
                        length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
                        size = len(head) + 4 + int(length)

            theirs, ours = interleave([timed(bare), timed(lambda: client.newest_image(5.0))], rounds=25)
        peaks = []
        for _ in range(5):
            client.close()  # and with it the memory kept for another image
            tracemalloc.start()
            frame = client.newest_image(5.0)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            n_bytes = frame.image.nbytes
            del frame
    return [
        result(
            "monitor fetch of 16M uint32 over loopback",
            Ratio(theirs, ours),
            least=0.8,
            baseline=f"bare socket into one buffer, {size / np.median(theirs) / 1e9:.2f} GB/s",
        ),
        result(
            "peak memory of one fetch",
            Ratio(peaks, np.full(len(peaks), n_bytes)),
            most=1.3,
            baseline=f"the frame, {n_bytes / 1e6:.1f} MB",
            note="tracemalloc, from request to array",
        ),
    ]


class ServerTime:
    """How long a scan waited for replies of the server: the union of all calls, over threads."""

    def __init__(self, client):
        self._spans, self._lock = [], threading.Lock()
        self._wrap(client._images, "fetch")
        self._wrap(client._http, "request")

    def _wrap(self, owner, name):
        function = getattr(owner, name)

        def measured(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self._spans.append((start, time.perf_counter()))

        setattr(owner, name, measured)

    def between(self, since, until):
        """Seconds between two moments in which some call was open."""
        total, end = 0.0, since
        for start, stop in sorted(span for span in self._spans if span[1] > since and span[0] < until):
            total += max(0.0, min(stop, until) - max(start, end))
            end = max(end, stop)
        return total


class Sampler:
    """Where the threads of a scan spend their time: every 2 ms, the innermost function of each."""

    WAITING = (
        "wait acquire select _wait_for_tstate_lock get readinto recv_into _worker _debug_monitor".split()
    )

    def __init__(self):
        self._over, self.seen = threading.Event(), Counter()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._over.set()
        self._thread.join()

    def _run(self):
        while not self._over.wait(0.002):
            for ident, frame in sys._current_frames().items():
                if ident != self._thread.ident and frame.f_code.co_name not in self.WAITING:
                    file = Path(frame.f_code.co_filename)
                    self.seen[f"{file.parent.name}/{file.name}: {frame.f_code.co_qualname}"] += 1

    def table(self):
        """Return the functions seen most often, with their share."""
        total = sum(self.seen.values()) or 1
        return "\n".join(f"{100 * n / total:5.1f} %  {name}" for name, n in self.seen.most_common(25)) + "\n"


def bare_camera(directory: str):
    """Make a device of stock ophyd that does, of an Eiger's point, what no device could leave out.

    Its frame lies in memory; one thread sums it up, compresses it and appends it to a file that others read
    meanwhile. The documents are those of an Eiger. Nothing is checked, ordered, limited or taken back.
    """
    import h5py
    import hdf5plugin
    from event_model import compose_stream_resource
    from ophyd import Device, DeviceStatus

    from sfdaq_ophyd.wire.compression import compress_bslz4

    image = np.ones((1024, 1024), "u4")

    class BareCamera(Device):
        def __init__(self):
            super().__init__(name="bare")
            self.pool = ThreadPoolExecutor(1)
            self.file = h5py.File(f"{directory}/bare.h5", "x", libver="latest")
            kind = {"maxshape": (None, 1024, 1024), "chunks": (1, 1024, 1024), **hdf5plugin.Bitshuffle()}
            self.images = self.file.create_dataset("image", (0, 1024, 1024), image.dtype, **kind)
            self.numbers = self.file.create_dataset("total", (0,), "i8", maxshape=(None,), chunks=(1024,))
            self.file.swmr_mode = True
            self.values, self.n_shown = {}, 0

        def stage(self):
            self.n_staged = len(self.images)
            self.resource = self.n_shown = None
            return super().stage()

        def trigger(self):
            status = DeviceStatus(self, timeout=10)
            self.pool.submit(self.take, status)
            return status

        def take(self, status):
            total, largest = int(image.sum(dtype="u8")), int(image.max())
            row = len(self.images)
            self.numbers.resize((row + 1,))
            self.numbers[row] = total
            self.numbers.flush()
            self.images.resize(row + 1, axis=0)
            self.images.id.write_direct_chunk((row, 0, 0), compress_bslz4(image))
            self.images.flush()
            now = time.time()
            columns = {"total": total, "max": largest, "event_id": f"1_{row}", "timestamp": now}
            self.values = {f"bare_{name}": {"value": v, "timestamp": now} for name, v in columns.items()}
            status.set_finished()

        def read(self):
            return {**super().read(), **self.values}

        def describe(self):
            kinds = {"total": "integer", "max": "integer", "event_id": "string", "timestamp": "number"}
            keys = {f"bare_{k}": {"source": "bare", "dtype": kind, "shape": []} for k, kind in kinds.items()}
            image_key = {"source": "bare", "dtype": "array", "shape": [1, 1024, 1024], "external": "STREAM:"}
            return {**super().describe(), **keys, "bare_image": image_key}

        def collect_asset_docs(self, index=None):
            if self.resource is None:
                self.resource = compose_stream_resource(
                    mimetype="application/x-hdf5",
                    uri=f"file://localhost{directory}/bare.h5",
                    data_key="bare_image",
                    parameters={"dataset": "image", "chunk_shape": (1, 1024, 1024)},
                )
                self.n_shown = 0
                yield "stream_resource", self.resource.stream_resource_doc
            n = len(self.images) - self.n_staged
            if n > self.n_shown:
                indices = {"start": self.n_shown, "stop": n}
                self.n_shown = n
                yield "stream_datum", self.resource.compose_stream_datum(indices)

    return BareCamera()


def event_overhead(n=200):
    """A step scan of 200 points, 1 x 1 k frames, against the same scan with ophyd.sim.det.

    CPU time and hand-overs (how often a thread of this process began to wait) say what it costs whatever else
    the machine does. The limit is what stock ophyd costs for such a point; see `bare_camera`.
    """
    import bluesky.plans as bp
    from bluesky import RunEngine
    from ophyd.sim import SynAxis, det

    from sfdaq_ophyd.devices import Eiger

    engine = RunEngine(context_managers=[])
    motor = SynAxis(name="motor")
    with simulator("--shape", "1024x1024") as url, tempfile.TemporaryDirectory() as directory:
        eiger = Eiger(url, name="eiger", directory=directory)
        eiger.exposure_time.put(1e-6)
        engine(bp.scan([eiger], motor, 0, 1, 5))
        engine(bp.scan([det], motor, 0, 1, 5))
        bare = bare_camera(directory)
        engine(bp.scan([bare], motor, 0, 1, 5))
        server = ServerTime(eiger.client)

        costs = {eiger: [], det: [], bare: []}

        def per_point(detector, waited):
            """Median over the points of a scan: time from event to event without waiting, s."""
            moments, used = [], []

            def take(*_):
                moments.append(time.perf_counter())
                now = resource.getrusage(resource.RUSAGE_SELF)
                used.append((now.ru_utime + now.ru_stime, now.ru_nvcsw))

            engine(bp.scan([detector], motor, 0, 1, n), {"event": take})
            costs[detector].append(np.subtract(used[-1], used[0]) / (n - 1))
            return median(b - a - waited(a, b) for a, b in zip(moments, moments[1:]))

        def without_server(a, b):
            return 0.0

        detectors = [(eiger, server.between), (det, without_server), (bare, without_server)]
        own, plain, stock = interleave([lambda pair=pair: per_point(*pair) for pair in detectors], rounds=7)
        with Sampler() as sampler:
            engine(bp.scan([eiger], motor, 0, 1, n))
    PROFILE.write_text(sampler.table())
    cpu, hand_overs = np.median(costs[eiger], axis=0) - np.median(costs[det], axis=0)
    low, extra, high = np.percentile((own - plain) * 1e3, (25, 50, 75)).tolist()
    limit = float(np.median((stock - plain) * 1e3))
    return {
        "name": "event overhead of the Eiger, ms per point",
        "ratio": round(extra, 2),
        "bar": "<= 3 ms over ophyd.sim.det",
        "limit": round(limit, 2),
        "met": extra <= 3 or ("at its limit" if extra <= NEAR * limit else False),
        "baseline": f"ophyd.sim.det {median(plain) * 1e3:.2f} ms per point",
        "note": f"{low:.2f} to {high:.2f} (half of {len(own)} pairs); median point of {n}, 1 x 1 k, without "
        f"the time in which the server was waited for; with it {cpu * 1e3:.2f} ms of CPU and "
        f"{hand_overs:.1f} hand-overs more than the baseline; see {PROFILE.name}",
    }


BENCHMARKS = [tiff_to_array, monitor_fetch, event_overhead]

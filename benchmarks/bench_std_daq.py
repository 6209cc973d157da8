"""The standard DAQ: what the device adds to a start, when it sees the end, long scans, a long stream."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from contextlib import contextmanager
from statistics import median

import bluesky.plans as bp
import numpy as np
import redis
from bluesky import RunEngine

from sfdaq_ophyd.clients import StdDaqClient, StdDaqRedis
from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.sim.std_daq.embedded_redis import EmbeddedRedis

from .pairs import interleave

N_STARTS = 15
N_POINTS = 500
N_MESSAGES = 100_000


@contextmanager
def simulated(**settings):
    """The simulated DAQ in a process of its own, small images."""
    command = [sys.executable, "-m", "sfdaq_ophyd.sim.std_daq", "--port", "0"]
    command += ["--writable", tempfile.gettempdir()]
    command += ["--settings", json.dumps({"image_shape": [16, 32], "maxlen": 1000, **settings})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().removeprefix("READY ").strip()
        StdDaqClient(url).stop()
        yield url
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def staged(url, **signals):
    """A staged writer, which is told to be quiet: its points are never saved, so that no file is of use."""
    logging.getLogger("sfdaq_ophyd.devices").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        writer = StdDaqWriter(url, name="writer", directory=folder)
        for name, value in signals.items():
            getattr(writer, name).put(value)
        writer.stage()
        try:
            yield writer, folder
        finally:
            writer.unstage()


def start_overhead():
    """Trigger to WRITING, against the bare client call, pair by pair."""
    with simulated() as url, staged(url, frames_per_trigger=3) as (writer, folder):
        client, writing, count = StdDaqClient(url), threading.Event(), itertools.count()
        writer.writer_state.subscribe(lambda value, **kwargs: value == "WRITING" and writing.set(), run=False)

        def bare() -> float:
            begin = time.perf_counter()
            client.start_writer_async({"output_file": f"{folder}/bare{next(count)}.h5", "n_images": 3})
            took = time.perf_counter() - begin
            while client.get_status()["state"] != "READY":
                time.sleep(0.005)
            return took

        def device() -> float:
            writing.clear()
            begin = time.perf_counter()
            status = writer.trigger()
            writing.wait(10)
            took = time.perf_counter() - begin
            status.wait(10)
            return took

        ours, theirs = interleave([device, bare], rounds=N_STARTS)
    low, extra, high = np.percentile(ours - theirs, (25, 50, 75))
    return {
        "name": "std_daq start overhead",
        "ratio": round(float(extra) / 0.005, 3),
        "bar": "<= 1 (5 ms)",
        "met": bool(extra <= 0.005),
        "baseline": f"bare start_writer_async, {median(theirs) * 1000:.1f} ms with the service's own poll",
        "note": f"trigger to WRITING takes {extra * 1000:.1f} ms longer, half of {N_STARTS} pairs "
        f"{low * 1000:.1f} to {high * 1000:.1f} ms",
    }


def end_noticed():
    """DAQ's stop time to the end of the status, against the period of its published statuses."""
    late = []
    with simulated() as url, staged(url, frames_per_trigger=20) as (writer, _):
        client = StdDaqClient(url)
        for _ in range(N_STARTS):
            writer.trigger().wait(10)
            late.append(time.time() - client.status().acquisition.stop_time)
    return {
        "name": "std_daq end noticed",
        "ratio": round(median(late) / 0.5, 3),
        "bar": "<= 1 (one status period)",
        "met": median(late) <= 0.5,
        "baseline": "0.5 s, the period of the DAQ's published statuses",
        "note": f"{median(late) * 1000:.0f} ms after the DAQ closed the file (median of {N_STARTS})",
    }


def long_scan():
    """Time per point at the end of a long scan, against its beginning."""
    times = []
    engine = RunEngine(context_managers=[])
    engine.subscribe(lambda name, doc: times.append(time.perf_counter()) if name == "event" else None)
    with simulated(speed=10.0) as url, tempfile.TemporaryDirectory() as folder:
        writer = StdDaqWriter(url, name="writer", directory=folder)
        writer.frames_per_trigger.put(3)
        engine(bp.count([writer], N_POINTS))
    steps = [b - a for a, b in zip(times, times[1:])]
    first, last = median(steps[:100]), median(steps[-100:])
    return {
        "name": "std_daq 500 points",
        "ratio": round(last / first, 3),
        "bar": "<= 1.2",
        "met": last / first <= 1.2,
        "baseline": f"first 100 points, {first * 1000:.0f} ms each",
        "note": f"last 100 of {N_POINTS} points: {last * 1000:.0f} ms each, one file per point",
    }


def follower_memory():
    """Memory of the Redis follower after many messages, against a fifth of them."""
    embedded = EmbeddedRedis()
    embedded.start()
    sizes = []
    try:
        with StdDaqRedis(embedded.url, ["status"], block=0.1) as follower:
            follower.wait_connected(5)
            tracemalloc.start(1)
            for n_wanted in (N_MESSAGES // 5, N_MESSAGES):
                _publish(embedded, follower, n_wanted)
                sizes.append(_size_of("std_daq_redis.py"))
            tracemalloc.stop()
    finally:
        embedded.stop()
    return {
        "name": "std_daq follower memory",
        "ratio": round(sizes[1] / sizes[0], 3),
        "bar": "<= 1.05",
        "met": sizes[1] / sizes[0] <= 1.05,
        "baseline": f"{sizes[0] / 2**20:.1f} MiB after {N_MESSAGES // 5} messages",
        "note": f"{sizes[1] / 2**20:.1f} MiB after {N_MESSAGES} messages through Redis, that nobody took",
    }


def _publish(embedded, follower, n_wanted):
    """Put statuses into Redis, which keeps few of them, until the follower delivered `n_wanted`."""
    stats = {"start_time": 1.0, "stop_time": None}
    acquisition = {"state": "ACQUIRING_IMAGES", "message": "", "info": {"run_id": 1}}
    with redis.Redis.from_url(embedded.url) as client:
        while (n := follower.counts["delivered"]) < n_wanted:
            with client.pipeline(transaction=False) as pipe:
                for k in range(200):
                    content = {
                        "state": "WRITING",
                        "acquisition": {**acquisition, "stats": {**stats, "n": n + k}},
                    }
                    pipe.xadd("daq:status", {"json": json.dumps(content)}, maxlen=1000)
                pipe.execute()
            while follower.counts["delivered"] < n + 200:
                time.sleep(0.001)


def _size_of(file):
    """Return the bytes held by what was allocated in one source file and in the JSON decoder."""
    held = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(True, f"*{file}"), tracemalloc.Filter(True, "*json/decoder.py")]
    )
    return sum(trace.size for trace in held.statistics("filename"))


BENCHMARKS = [start_overhead, end_noticed, long_scan, follower_memory]

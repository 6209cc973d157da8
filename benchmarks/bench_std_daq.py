"""The standard DAQ: what the device adds to a start, when it sees the end, long scans."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from statistics import median

import bluesky.plans as bp
import numpy as np

from sfdaq_ophyd.clients import StdDaqClient
from sfdaq_ophyd.devices import StdDaqWriter

from .aged import LongScan
from .pairs import Ratio, interleave, result

N_STARTS = 15
N_POINTS = 500
PAIRS, ROUND_POINTS = 7, 20
STATUS_PERIOD = 0.5


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
    extra = ours - theirs
    return result(
        "std_daq start overhead",
        Ratio(extra, np.full(N_STARTS, 0.005)),
        most=1.0,
        baseline=f"5 ms; bare start_writer_async, {np.median(theirs) * 1000:.1f} ms with the service's poll",
        note=f"trigger to WRITING takes {np.median(extra) * 1000:.1f} ms longer",
    )


def end_noticed():
    """DAQ's stop time to the end of the status, against the period of its published statuses."""
    late = []
    with simulated() as url, staged(url, frames_per_trigger=20) as (writer, _):
        client = StdDaqClient(url)
        for _ in range(N_STARTS):
            writer.trigger().wait(10)
            late.append(time.time() - client.status().acquisition.stop_time)
    return result(
        "std_daq end noticed",
        Ratio(late, [STATUS_PERIOD] * N_STARTS),
        most=1.0,
        baseline="0.5 s, the period of the DAQ's published statuses",
        note=f"{median(late) * 1000:.0f} ms after the DAQ closed the file",
    )


def long_scan():
    """Time per point at the end of a long scan, in turns with short scans of another DAQ."""
    with (
        simulated(speed=10.0) as url,
        simulated(speed=10.0) as other,
        tempfile.TemporaryDirectory() as folder,
    ):
        writers = [StdDaqWriter(each, name="writer", directory=folder) for each in (url, other)]
        for writer in writers:
            writer.frames_per_trigger.put(3)
        scan = LongScan(bp.count(writers[:1], N_POINTS))

        def short() -> float:
            beginning = LongScan(bp.count(writers[1:], ROUND_POINTS))
            took = median(beginning.go_on(ROUND_POINTS)[1:, 0])
            beginning.finish()
            return took

        scan.go_on(N_POINTS - (1 + PAIRS) * ROUND_POINTS)
        late, early = interleave([lambda: median(scan.go_on(ROUND_POINTS)[1:, 0]), short], rounds=PAIRS)
        scan.finish()
    return result(
        f"std_daq {N_POINTS} points",
        Ratio(late, early),
        most=1.2,
        baseline=f"points of short scans, {np.median(early) * 1000:.0f} ms each",
        note=f"last {PAIRS * ROUND_POINTS} of {N_POINTS} points: {np.median(late) * 1000:.0f} ms each",
    )


BENCHMARKS = [start_overhead, end_noticed, long_scan]

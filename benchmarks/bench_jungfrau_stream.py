"""Jungfrau streams: receive and match, calibrate in real time, pair at 300 Hz, write, and all together."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sfdaq_ophyd import setup
from sfdaq_ophyd.calibration import JungfrauCalibration
from sfdaq_ophyd.clients import ModuleStream

from .pairs import Ratio, interleave, result

SECONDS = float(os.environ.get("BENCH_SECONDS", 60))
"""Length of the real-time case without a file."""

FILE_SECONDS = min(SECONDS, 20.0)
"""Length of the real-time case with a file: 300 MB of frames per second."""

ROUNDS = int(os.environ.get("BENCH_ROUNDS", 1))
"""Scans in a row with a file; the files of one are gone before the next begins. 30 take twenty minutes,
half of that for their limit."""

RATE_MULTIPLICATOR = int(os.environ.get("BENCH_RATE_MULTIPLICATOR", 1))
"""Every so many pulses a frame, in the case with everything."""

FOLDER = os.environ.get("BENCH_FOLDER") or tempfile.gettempdir()
"""Where files are made; ``/dev/shm`` writes none to the disk."""

FRAME_BYTES = 2**20


@contextlib.contextmanager
def sender(n_ports: int, n_frames: int, rate: float, *more: int):
    """Run `stream_sender` in a child; give its endpoints."""
    arguments = [str(argument) for argument in (n_ports, n_frames, rate, *more)]
    command = [sys.executable, "-m", "benchmarks.stream_sender", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def module_frames_per_second(which: str, endpoints: list[str]) -> float:
    """Receive with the bare pyzmq loop or with ours, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bare_loop", which, *endpoints]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)


def bare_recording(endpoints: list[str], n_images: int) -> tuple[float, float]:
    """Receive, compress and write so many images with `bare_loop`; return images per second and the share."""
    command = [sys.executable, "-m", "benchmarks.bare_loop", "write", FOLDER, str(n_images), *endpoints]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600).stdout
    rate, share = map(float, said.split())
    return rate, share


def receive_two_modules() -> dict:
    with sender(2, 600, 0) as endpoints:
        ways = ("bare", "copy", "ours")
        bare, copy, ours = interleave(
            [functools.partial(module_frames_per_second, which, endpoints) for which in ways],
            rounds=int(os.environ.get("BENCH_PAIRS", 15)),
        )
    megabytes = FRAME_BYTES / 1e6
    return result(
        "Jungfrau: receive, match and assemble two modules",
        Ratio(ours, bare),
        least=0.8,
        limit=Ratio(copy, bare),
        baseline=f"bare pyzmq loop, receives and drops: {np.median(bare) * megabytes:.0f} MB/s",
        note=f"ours {np.median(ours) * megabytes:.0f} MB/s; the limit of the two cores' memory, a loop that "
        f"copies and does nothing else, is at {Ratio(copy, bare)}; ours to that {Ratio(ours, copy)}",
    )


def pair_at_300_hz() -> dict:
    """One stream 120 ms late, and a second acquisition with the same numbers."""
    n_frames = 900
    with sender(2, n_frames, 300, 36, 2) as endpoints:
        stream = ModuleStream(endpoints)
        with stream.frames(10) as queue, stream:
            came = [(frame.frame_number, frame.is_good) for _, frame in zip(range(2 * n_frames), queue)]
    good = sum(is_good for _, is_good in came)
    ordered = [number for number, _ in came] == [*range(1, n_frames + 1)] * 2
    return {
        "name": "Jungfrau: pairing at 300 Hz, one stream 120 ms late, same numbers twice",
        "ratio": good / (2 * n_frames),
        "bar": ">= 1",
        "met": good == 2 * n_frames and ordered,
        "baseline": "frames sent",
        "note": f"{good} of {2 * n_frames} whole and in order; OM delivers 28 %, 3 % and 0 % in such cases",
    }


def make_calibration(scene) -> JungfrauCalibration:
    constants = scene.constants
    return JungfrauCalibration(scene.detector_name, constants.gain, constants.pedestal, constants.mask)


def calibrate_in_real_time() -> dict:
    """Three modules at 100 Hz, to float32 with gaps and geometry."""
    from sfdaq_ophyd.sim import Facility

    with Facility(only=["jungfrau"]) as facility:
        part = facility.jungfrau
        calibration = make_calibration(part.scene)
        out = [calibration.empty() for _ in range(4)]
        latencies, numbers, memory, n_bad = [], [], [], 0
        with ModuleStream(part.endpoints, detector_name=part.detector_name) as stream:
            stream.wait_connected()
            with stream.frames(10) as queue:
                first = queue.get(10).frame_number
                last = first + int(100 * SECONDS)
                while not numbers or numbers[-1] < last:
                    frame = queue.get(10)
                    calibration(frame.image, out=out[len(numbers) % 4])
                    latencies.append(time.monotonic() - frame.received)
                    numbers.append(frame.frame_number)
                    n_bad += not frame.is_good
                    if len(numbers) % 100 == 0:
                        memory.append(_resident() / 2**20)
            counters = dict(stream.counters)
        sent = part.status()
    n_lost = (numbers[-1] - numbers[0] + 1) - len(numbers) + n_bad
    n_left_out = sent["n_left_out"]
    latency = float(np.median(latencies))
    return {
        "name": f"Jungfrau: three modules at 100 Hz for {SECONDS:g} s, calibrated",
        "ratio": latency / 5e-3,
        "bar": "< 1, and no frame lost",
        "met": latency < 5e-3 and n_lost == 0,
        "baseline": "5 ms from the last module message to the calibrated image",
        "note": f"{Ratio(latencies, np.full(len(latencies), 5e-3))}; "
        f"{len(numbers)} frames, {n_lost} lost ({counters['dropped']} dropped here, {n_left_out} "
        f"left out by the simulator); latency median {latency * 1e3:.2f} ms, "
        f"99 % {np.quantile(latencies, 0.99) * 1e3:.2f} ms; resident memory {memory[0]:.0f} MiB at first, "
        f"{memory[-1]:.0f} MiB at the end, {max(memory):.0f} MiB at most",
    }


def write_raw_frames() -> dict:
    """A fly scan that writes raw frames, against the slower of disk and compressor, round by round."""
    from sfdaq_ophyd.wire import compression

    shape, n_frames = (1024, 1024), 400
    rng = np.random.default_rng(1)
    frames = [rng.integers(2800, 3100, shape, "u2") for _ in range(8)]
    n_bytes = n_frames * frames[0].nbytes
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=FOLDER) as folder,
        ThreadPoolExecutor(2) as pool,
        sender(2, 4 * n_frames, 0) as endpoints,
    ):

        def compressor() -> float:
            begin = time.perf_counter()
            list(pool.map(compression.compress_bslz4, frames * (n_frames // 8)))
            return n_bytes / (time.perf_counter() - begin)

        def disk() -> float:
            begin = time.perf_counter()
            with open(Path(folder) / "plain", "wb", buffering=0) as file:
                for k in range(n_frames):
                    file.write(frames[k % 8])
                os.fsync(file.fileno())
            return n_bytes / (time.perf_counter() - begin)

        fly_scan = functools.partial(_fly_scan, endpoints, Path(folder), n_frames)
        plainly = functools.partial(bare_recording, endpoints, n_frames)
        ways = [disk, compressor, lambda: plainly()[0], fly_scan]
        disks, compressors, plain, ours = interleave(ways, rounds=5)
    ours, plain = ours * frames[0].nbytes, plain * frames[0].nbytes
    return result(
        "Jungfrau: fly scan writing raw frames",
        Ratio(ours, np.minimum(disks, compressors)),
        least=0.8,
        limit=Ratio(plain, np.minimum(disks, compressors)),
        baseline=f"disk {np.median(disks) / 1e6:.0f} MB/s, "
        f"compressor {np.median(compressors) / 1e6:.0f} MB/s (2 threads)",
        note=f"{np.median(ours) / 1e6:.0f} MB/s of raw frames, RunEngine and receiving included; limit: "
        f"a loop that receives, compresses and writes to a plain file, {np.median(plain) / 1e6:.0f} MB/s",
    )


def _fly_scan(endpoints: list[str], folder: Path, n_frames: int) -> float:
    """Record frames as fast as they are taken; return frames per second, without what staging takes."""
    from bluesky import RunEngine

    from sfdaq_ophyd.devices import Jungfrau
    from sfdaq_ophyd.plans import fly

    jungfrau = Jungfrau(endpoints, name="jf", directory=folder, detector_name="JF04T02V01", frame_step=0)
    times = []
    engine = RunEngine(context_managers=[])
    engine.subscribe(lambda name, doc: times.append(time.perf_counter()), "descriptor")
    engine.subscribe(lambda name, doc: times.append(time.perf_counter()), "event_page")
    engine(fly([jungfrau], n_frames))
    for path in folder.glob("*.h5"):
        path.unlink()
    return n_frames / (times[-1] - times[0])


def everything_together() -> list[dict]:
    """Three modules at 100 Hz into RunEngine, HDF5 file and Tiled: rate held, memory bounded."""
    from bluesky import RunEngine

    from sfdaq_ophyd.catalog import embedded_catalog
    from sfdaq_ophyd.clients.ring import Ring
    from sfdaq_ophyd.clients.stream import HIGH_WATER
    from sfdaq_ophyd.devices import Jungfrau
    from sfdaq_ophyd.plans import fly
    from sfdaq_ophyd.sim import Facility

    rate = 100 / RATE_MULTIPLICATOR
    n_frames = int(rate * FILE_SECONDS)
    if shutil.disk_usage(FOLDER).free < 4 * n_frames * 3 * FRAME_BYTES:
        raise RuntimeError("too little space for temporary files: four times what is written must be free")
    options = {"only": ["jungfrau"], "jungfrau_rate_multiplicator": RATE_MULTIPLICATOR}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=FOLDER) as folder, Facility(**options) as facility:
        part, data = facility.jungfrau, Path(folder) / "data"
        jungfrau = Jungfrau(
            part.endpoints, name="jf", directory=data, detector_name=part.detector_name
        )  # fmt: skip
        jungfrau.loss_policy.put("tolerant")
        before, numbers, peaks, levels, seconds, n_left_out = _resident(), [], [], [], [], []
        with embedded_catalog(Path(folder) / "catalog") as catalog:
            engine = RunEngine(context_managers=[])
            setup(engine, catalog)
            memory = []

            def note(name, doc):
                memory.append(_resident())
                numbers.extend(doc["data"]["jf_frame_number"])

            engine.subscribe(note, "event_page")

            def scan() -> float:
                begin, n_before, left_out = time.perf_counter(), len(numbers), part.status()["n_left_out"]
                engine(fly([jungfrau], n_frames))
                seconds.append(time.perf_counter() - begin)
                n_left_out.append(part.status()["n_left_out"] - left_out)
                peaks.append(max(memory) - before)
                levels.append(_resident() - before)
                memory.clear()
                shutil.rmtree(data)
                return sum(number > 0 for number in numbers[n_before:]) / n_frames

            plainly = functools.partial(bare_recording, part.endpoints, n_frames)
            ours, plain = interleave([scan, lambda: plainly()[1]], ROUNDS, warm_up=0)
        bound = Ring(part.scene.shape).n_bytes + 3 * HIGH_WATER * FRAME_BYTES
    n_there, n_asked = sum(number > 0 for number in numbers), ROUNDS * n_frames
    name = f"three modules at {rate:g} Hz for {ROUNDS * FILE_SECONDS:g} s beside RunEngine, Tiled and writer"
    return [
        result(
            f"Jungfrau: {name}",
            Ratio([n_there], [n_asked]),
            least=1.0,
            limit=Ratio([plain.mean()], [1.0]),
            baseline="frames asked for",
            note=f"{n_there} of {n_asked} frames in {sum(seconds):.1f} s, scans of {min(ours):.3g} to "
            f"{max(ours):.3g}; {sum(n_left_out)} left out by the simulator; limit: a loop that receives, "
            "compresses and writes to a plain file, in turns with the scans",
        ),
        {
            "name": f"Jungfrau: memory, {name}",
            "ratio": max(peaks) / bound,
            "bar": "<= 1.3",
            "met": max(peaks) <= 1.3 * bound,
            "baseline": f"the ring and the messages that may wait, {bound / 2**20:.0f} MiB",
            "note": f"resident {before / 2**20:.0f} MiB before; more than that at most, scan by scan: "
            f"{', '.join(f'{peak / 2**20:.0f}' for peak in peaks)} MiB; after each scan "
            f"{', '.join(f'{level / 2**20:.0f}' for level in levels)} MiB",
        },
    ]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


BENCHMARKS = [
    receive_two_modules,
    pair_at_300_hz,
    calibrate_in_real_time,
    write_raw_frames,
    everything_together,
]

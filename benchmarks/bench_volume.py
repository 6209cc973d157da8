"""Runs of many channels: how soon the catalog has them whole. A run of many points: does it slow down?"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from bluesky import RunEngine
from ophyd.sim import SynAxis

from sfdaq_ophyd import setup
from sfdaq_ophyd.catalog import embedded_catalog
from sfdaq_ophyd.devices import Eiger, Jungfrau, PulseId, StdDaqWriter
from sfdaq_ophyd.plans import sf_count, sf_scan

from .bench_broker import broker, device_for, simulated
from .pairs import Ratio, interleave, result

CASES = (("channels", 200, 5, 10.0), ("pvs", 500, 10, 20.0))
"""What, how many, points, and s from the end of the run."""

ROUNDS = 3
N_PULSES = 10

JUNGFRAU = "JF03T01V02"
"""One module."""

N_POINTS = 3000
N_COMPARED = N_POINTS // 10
N_PAIRS = 10
WARM_UP = N_POINTS // 30
KEPT = 16384
"""Points of the long scan; of those compared at either end, and in how many pairs; of those before, which
fill buffers. Bytes that a point of the second half may add: what an allocator gives and takes is some MB."""


def cpu_of(pid: int) -> float:
    """CPU time that a process has taken, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def volume() -> list[dict]:
    """Runs of both kinds, in turns; beside the clock, what no other work changes: CPU time and requests."""
    with broker() as (addresses, folder), embedded_catalog(folder / "catalog") as store:
        notes: dict[str, str] = {}
        runs = [partial(one_run, addresses, folder, store, notes, *case) for case in CASES]
        figures = interleave(runs, rounds=ROUNDS, warm_up=0)
    return [
        result(
            f"volume: {n} {kind} in {n_points} points complete in the catalog",
            Ratio(late, np.full(ROUNDS, bar)),
            most=1.0,
            baseline=f"{bar:g} s after the end of the run",
            note=f"{np.median(late):.1f} s; {notes[kind]}",
        )
        for late, (kind, n, n_points, bar) in zip(figures, CASES)
    ]


def one_run(addresses, folder, store, notes: dict[str, str], kind: str, n: int, n_points: int, _bar) -> float:
    """Run, and wait until the catalog has all; return how long that took after the end, s."""
    names = [f"SIM:{kind.upper()}{i:03d}" for i in range(n)]
    device = device_for(addresses, folder, n_pulses=N_PULSES, **{kind: names})
    engine = RunEngine(context_managers=[])
    store.subscribe(engine)
    requests, documents = Counter(), Counter()
    hooks = store._write_client.context.http_client.event_hooks["request"]
    hooks.append(lambda request: requests.update([request.method]))
    engine.subscribe(lambda name, _: documents.update([name]))
    before = cpu_of(store.server.pid)
    (uid,) = engine(sf_count([device], n_points))
    ended = time.perf_counter()
    store.flush(600)
    late, spent = time.perf_counter() - ended, cpu_of(store.server.pid) - before
    hooks.pop()
    array = store[uid]["sfdaq_data"][f"sfdaq_{names[-1]}"].read()
    assert array.shape == (n_points, N_PULSES)
    notes[kind] = f"server's CPU {spent:.1f} s; {sum(requests.values())} requests, "
    notes[kind] += f"{sum(documents.values())} documents"
    return late


def resident(pid: int) -> int:
    """Memory that a process has, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def long_scan() -> list[dict]:
    """Scan with all four devices; compare the last points with the first, here and in the server."""
    parts = "pvs,eiger,jungfrau,std_daq,broker"
    options = {"eiger_shape": [32, 48], "jungfrau_name": JUNGFRAU}
    with (
        tempfile.TemporaryDirectory() as writable,
        simulated(parts, "auto", std_daq_writable=[writable], **options) as (addresses, folder),
        embedded_catalog(folder / "catalog") as store,
    ):
        os.environ |= {"EPICS_CA_ADDR_LIST": addresses["pvs"]["ca"], "EPICS_CA_AUTO_ADDR_LIST": "NO"}
        return compared(*points_of(addresses, store, folder, writable))


def points_of(addresses: dict, store, folder: Path, writable: str) -> tuple[np.ndarray, float]:
    """Return s of CPU and bytes, of us and of the server, at the end of each point; and s until complete."""
    pulse_id = PulseId(addresses["pvs"]["pulse_id"], name="pulse_id")
    pulse_id.wait_for_connection(timeout=60)
    std_daq = addresses["std_daq"]
    devices = [
        Eiger(addresses["eiger"]["url"], name="eiger", directory=folder),
        Jungfrau(
            addresses["jungfrau"]["module0"],
            name="jf",
            detector_name=JUNGFRAU,
            directory=folder,
            pulse_id=pulse_id,
        ),
        StdDaqWriter(std_daq["url"], name="writer", redis_url=std_daq["redis_url"], directory=writable),
        device_for(
            addresses["broker"],
            folder,
            pulse_id=pulse_id,
            detectors=[JUNGFRAU],
            channels=["SIM:INTENSITY"],
            n_pulses=1,
        ),
    ]
    devices[2].frames_per_trigger.put(1)
    engine, seen = RunEngine(context_managers=[]), []
    setup(engine, store)
    processes = os.getpid(), store.server.pid

    def look(*_) -> None:
        seen.append([figure(pid) for pid in processes for figure in (cpu_of, resident)])

    engine.subscribe(look, "event")
    (uid,) = engine(sf_scan(devices, SynAxis(name="motor"), 0, 1, N_POINTS))
    ended = time.perf_counter()
    store.flush(600)
    late = time.perf_counter() - ended
    run = store[uid]
    arrays = run["primary"]["jf_image"], run["sfdaq_data"]["sfdaq_SIM:INTENSITY"]
    assert [array.shape[0] for array in arrays] == [N_POINTS] * 2
    return np.array(seen[:N_POINTS], float), late


def compared(seen: np.ndarray, late: float) -> list[dict]:
    """Return the rows of time and of memory, each of us and of the server."""
    step = N_COMPARED // N_PAIRS
    ends = seen[WARM_UP : WARM_UP + N_COMPARED + 1 : step], seen[-N_COMPARED - 1 :: step]
    first, last = (np.diff(part, axis=0) / step for part in ends)
    added = (seen[-1] - seen[len(seen) // 2]) / (len(seen) // 2)
    rows = []
    for k, who in enumerate(("devices and engine", "catalog's server")):
        rows.append(
            result(
                f"volume: CPU of a point, last of {N_POINTS}, {who}",
                Ratio(last[:, 2 * k], first[:, 2 * k]),
                most=1.2,
                baseline=f"the first {N_COMPARED}: {1000 * first[:, 2 * k].mean():.1f} ms",
                note=f"last: {1000 * last[:, 2 * k].mean():.1f} ms; complete {late:.1f} s after the run",
            )
        )
        rows.append(
            result(
                f"volume: memory that a point adds, second half of {N_POINTS}, {who}",
                Ratio([max(added[2 * k + 1], 1)], [KEPT]),
                most=1.0,
                baseline=f"{KEPT} bytes",
                note=f"{added[2 * k + 1]:.0f} bytes, at first {first[:, 2 * k + 1].mean():.0f}; "
                f"at the end {seen[-1, 2 * k + 1] / 2**20:.0f} MiB",
            )
        )
    return rows


BENCHMARKS = [volume, long_scan]

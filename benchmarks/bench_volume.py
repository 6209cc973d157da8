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

from .aged import LongScan
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
"""Points of the long scan; of those at its end that take turns with a short scan's, and in how many pairs; of
those before, which fill buffers. Bytes that a point of the second half may add: what an allocator gives and
takes is some MB."""


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
    """Scan with all four devices; its last points take turns with the first of a short scan of others."""
    parts = "pvs,eiger,jungfrau,std_daq,broker"
    options = {"eiger_shape": [32, 48], "jungfrau_name": JUNGFRAU}
    with (
        tempfile.TemporaryDirectory() as writable,
        simulated(parts, "auto", std_daq_writable=[writable], **options) as (long, folder),
        simulated(parts, "auto", std_daq_writable=[writable], **options) as (short, other),
        embedded_catalog(folder / "catalog") as store,
    ):
        found = " ".join(addresses["pvs"]["ca"] for addresses in (long, short))
        os.environ |= {"EPICS_CA_ADDR_LIST": found, "EPICS_CA_AUTO_ADDR_LIST": "NO"}
        mine = devices_of(long, folder, f"{writable}/long")
        others = devices_of(short, other, f"{writable}/short")
        return compared(mine, others, store)


def devices_of(addresses: dict, folder: Path, writable: str) -> list:
    """Return all four devices of a beamline."""
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
    return devices


class Scan:
    """A scan into a catalog that goes on as it is told; ``seen`` has s and bytes at the end of each point.

    Of us and of the catalog's server: CPU time, and memory.
    """

    def __init__(self, devices: list, store, n_points: int):
        self.seen: list[list[float]] = []
        self.uids: list[str] = []
        self._store, self._n_points, self._pids = store, n_points, (os.getpid(), store.server.pid)
        engine = RunEngine(context_managers=[])
        setup(engine, store)
        engine.subscribe(lambda _, doc: self.uids.append(doc["uid"]), "start")
        engine.subscribe(lambda *_: self.seen.append(self._look()), "event")
        self._scan = LongScan(sf_scan(devices, SynAxis(name="motor"), 0, 1, n_points), engine)

    def _look(self) -> list[float]:
        return [figure(pid) for pid in self._pids for figure in (cpu_of, resident)]

    def go_on(self, n: int) -> np.ndarray:
        """Take `n` more points, until the catalog has them; return the CPU time of each, of both, s."""
        before = self._look()
        self._scan.go_on(n)
        self._store.flush(600)
        return (np.array(self._look()) - before)[::2] / n

    def finish(self) -> float:
        """Let it end; return after how many s the catalog has all."""
        self._scan.finish()
        ended = time.perf_counter()
        self._store.flush(600)
        late, run = time.perf_counter() - ended, self._store[self.uids[0]]
        arrays = run["primary"]["jf_image"], run["sfdaq_data"]["sfdaq_SIM:INTENSITY"]
        assert [array.shape[0] for array in arrays] == [self._n_points] * 2
        return late


def compared(devices: list, others: list, store) -> list[dict]:
    """Return the rows of time and of memory, each of us and of the server."""
    step, n_alone = N_COMPARED // N_PAIRS, N_POINTS - N_COMPARED
    long, short = Scan(devices, store, N_POINTS), Scan(others, store, WARM_UP + N_COMPARED)
    long.go_on(n_alone)
    seen = np.array(long.seen)  # before the other scan takes memory
    short.go_on(WARM_UP)
    figures: dict[str, list[np.ndarray]] = {"last": [], "first": []}

    def block(which: str, scan: Scan) -> float:
        figures[which].append(scan.go_on(step))
        return 0.0

    interleave([partial(block, "last", long), partial(block, "first", short)], N_PAIRS, warm_up=0)
    late = max(long.finish(), short.finish())
    last, first = (np.array(figures[which]) for which in ("last", "first"))
    begin, half = seen[WARM_UP], N_POINTS // 2
    added, at_first = (seen[-1] - seen[half]) / (n_alone - 1 - half), (seen[half] - begin) / (half - WARM_UP)
    rows = []
    for k, who in enumerate(("devices and engine", "catalog's server")):
        rows.append(
            result(
                f"volume: CPU of a point, last of {N_POINTS}, {who}",
                Ratio(last[:, k], first[:, k]),
                most=1.2,
                baseline=f"points of a short scan: {1000 * np.median(first[:, k]):.1f} ms",
                note=f"last {N_COMPARED}, in turns: {1000 * np.median(last[:, k]):.1f} ms; "
                f"complete {late:.1f} s after the run",
            )
        )
        rows.append(
            result(
                f"volume: memory that a point adds, second half of {N_POINTS}, {who}",
                Ratio([max(added[2 * k + 1], 1)], [KEPT]),
                most=1.0,
                baseline=f"{KEPT} bytes",
                note=f"{added[2 * k + 1]:.0f} bytes, in the first half {at_first[2 * k + 1]:.0f}; "
                f"after {n_alone} points {seen[-1, 2 * k + 1] / 2**20:.0f} MiB",
            )
        )
    return rows


BENCHMARKS = [volume, long_scan]

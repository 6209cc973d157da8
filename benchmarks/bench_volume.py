"""Runs of many channels: how soon after its end a run is complete in the catalog, and what that costs."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from bluesky import RunEngine

from sfdaq_ophyd.catalog import embedded_catalog
from sfdaq_ophyd.devices import SfDaqBroker
from sfdaq_ophyd.plans import sf_count

from .bench_broker import TwoPulses, broker
from .pairs import Ratio, result

CASES = (("channels", 200, 5, 10.0), ("pvs", 500, 10, 20.0))
"""What, how many, points, and s from the end of the run."""

N_PULSES = 10


def cpu_of(pid: int) -> float:
    """CPU time that a process has taken, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def volume() -> list[dict]:
    """One run each; beside the clock, what a busy machine does not change: CPU time and requests."""
    return [one_run(*case) for case in CASES]


def one_run(kind: str, n: int, n_points: int, bar: float) -> dict:
    """Run, and wait until the catalog has all."""
    names = [f"SIM:{kind.upper()}{i:03d}" for i in range(n)]
    with broker() as (addresses, folder), embedded_catalog(folder / "catalog") as store:
        device = SfDaqBroker(
            addresses["broker"],
            addresses["slow"],
            name="sfdaq",
            pgroup="p12345",
            pulse_id=TwoPulses(),
            n_pulses=N_PULSES,
            sf_root=addresses["root"],
            directory=folder / "tables",
            **{kind: names},
        )
        engine = RunEngine(context_managers=[])
        store.subscribe(engine)
        requests, documents = Counter(), Counter()
        store._write_client.context.http_client.event_hooks["request"].append(
            lambda request: requests.update([request.method])
        )
        engine.subscribe(lambda name, _: documents.update([name]))
        before = cpu_of(store.server.pid)
        (uid,) = engine(sf_count([device], n_points))
        ended = time.perf_counter()
        store.flush(600)
        late, spent = time.perf_counter() - ended, cpu_of(store.server.pid) - before
        array = store[uid]["sfdaq_data"][f"sfdaq_{names[-1]}"].read()
        assert array.shape == (n_points, N_PULSES)
    return result(
        f"volume: {n} {kind} in {n_points} points complete in the catalog",
        Ratio([late], [bar]),
        most=1.0,
        baseline=f"{bar:g} s after the end of the run",
        note=f"{late:.1f} s; server's CPU {spent:.1f} s; {sum(requests.values())} requests, "
        f"{sum(documents.values())} documents",
    )


BENCHMARKS = [volume]

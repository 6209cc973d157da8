"""Does the main job end well on a machine that is not quiet? ``python -m benchmarks busy``.

Beside 0, 2, 4 and 8 processes that spin, again and again, each in a fresh process and a fresh folder: the
demo's scan (5 points, all devices), the README's ten lines, a fly scan of 1000 Jungfrau frames. Every job
reads its run back from the catalog and proves by ids and stamps that no frame is lost. No job is ended by a
time limit; one that takes long is reported. Ctrl-C and SIGTERM, also where it runs in the background, end
everything, and the table shows what was measured until then. With ``--together`` the jobs of a
round run beside each other too, which is harder and takes half as long.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"
N_FLOWN = 1000
PATIENCE = 120.0
"""s after which a job that goes on is said to, again and again."""

LOOK, FAREWELL = 0.2, 20.0
"""s between looks whether to stop, and that a job has to end when it is told to."""

QUIET_ROUNDS = 3
"""How often, at the most, a job is run without load, for the time that is compared with."""


def demo() -> int:
    """``sfdaq demo``: five points with every device."""
    from sfdaq_ophyd.catalog import embedded_catalog
    from sfdaq_ophyd.cli import app

    app(["demo", "--directory", ".", "--points", "5"], standalone_mode=False)
    with embedded_catalog("catalog") as catalog:
        run = catalog[-1]
        rows = run["primary"].read()
        frames = [run["primary"][key].shape[0] for key in ("eiger_image", "jf_image")]
        pulses = run["sfdaq_data"].read(variables=["time"])["time"].shape[0]
        whole = [
            list(rows["eiger_event_id"].values) == [f"1_{i}" for i in range(5)],
            len(set(rows["jf_pulse_id"].values)) == 5 == pulses,
            all(rows["writer_n_completed"].values == 20),
        ]
    return 10 - sum(frames) + whole.count(False)


def ten_lines() -> int:
    """The README's example, as it stands there."""
    from sfdaq_ophyd.catalog import embedded_catalog

    code = re.search(r"## Ten lines\n+```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    exec(compile(code, "README.md", "exec"), {})
    with embedded_catalog("catalog") as catalog:
        ids = list(catalog[-1]["primary"]["eiger_event_id"].read())
    return len({"1_0", "1_1", "1_2"} - set(ids))


def fly() -> int:
    """A thousand frames of three modules at 100 Hz, raw, without stopping."""
    import numpy as np
    from bluesky import RunEngine

    from sfdaq_ophyd import setup
    from sfdaq_ophyd.catalog import embedded_catalog
    from sfdaq_ophyd.devices import Jungfrau, PulseId
    from sfdaq_ophyd.plans import fly
    from sfdaq_ophyd.sim import Facility
    from sfdaq_ophyd.sim.stamp import read_stamp

    with Facility(speed="auto", only=["pvs", "jungfrau"]) as facility, embedded_catalog("catalog") as catalog:
        sim = facility.jungfrau
        pulse_id = PulseId(facility.pvs["pulse_id"], name="pulse_id")
        pulse_id.wait_for_connection(timeout=60)
        jf = Jungfrau(
            sim.endpoints, name="jf", detector_name=sim.detector_name, directory="frames", pulse_id=pulse_id
        )
        engine = RunEngine()
        setup(engine, catalog)
        (uid,) = engine(fly([jf], N_FLOWN))
        stream = catalog[uid]["primary"]
        pulses = np.ravel(stream["jf_pulse_id"].read())
        expected = np.arange(pulses[0], pulses[0] + N_FLOWN)
        lost = set(expected.tolist()) - set(pulses.tolist())
        for i in range(0, N_FLOWN, 20):
            image = np.asarray(stream["jf_image"][i])[0]
            stamps = {read_stamp(module) for module in image.reshape(-1, 512, 1024)}
            if stamps != {int(pulses[i])}:
                lost.add(int(pulses[i]))
    return len(lost)


JOBS = {"demo": demo, "ten_lines": ten_lines, "fly": fly}
"""What each returns is the number of frames lost."""


@contextlib.contextmanager
def spinning(n: int) -> Iterator[None]:
    """Keep `n` processes busy meanwhile; they end with this one, however it ends."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def heed_signals() -> None:
    """Raise KeyboardInterrupt at SIGINT, which a shell has background jobs ignore, and at SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def run(name: str, stop: threading.Event) -> dict | None:
    """Run a job in a fresh process; return whether it ended well, s, frames lost and its last words.

    When `stop` is set the job is told to end, and there is nothing to return.
    """
    if stop.is_set():
        return None
    folder = tempfile.mkdtemp(prefix=f"busy-{name}-")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OPHYD_CONTROL_LAYER": "caproto", "SFDAQ_LOG": f"{folder}/log"}
    begin = time.monotonic()
    with open(f"{folder}/said", "w+") as said:
        command = [sys.executable, "-m", "benchmarks.busy", "--job", name]
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT)
        told = begin
        try:
            while process.poll() is None and not stop.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK)
                if time.monotonic() > told + PATIENCE:
                    told = time.monotonic()
                    print(f"  {name} goes on for {told - begin:.0f} s, in {folder}", flush=True)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(FAREWELL)
        finally:
            process.kill()
            process.wait()
        took = time.monotonic() - begin
        said.seek(0)
        words = said.read().splitlines()
    if stop.is_set():
        shutil.rmtree(folder, ignore_errors=True)
        return None
    lost = json.loads(words[-1]) if process.returncode == 0 else None  # nobody looked
    well = lost == 0
    if well:
        shutil.rmtree(folder)
    return {"well": well, "took": took, "lost": lost, "said": words[-8:], "folder": folder}


def measure(
    names: list[str], loads: list[int], repeat: int, *, together: bool = False
) -> tuple[list[dict], bool]:
    """Run every job beside every load, a round in turns or together.

    Returns
    -------
    rows : list of dict
        One per job and load of which a run came to its end.
    whole : bool
        Whether that is all: Ctrl-C and SIGTERM end it before.
    """
    results: dict[tuple[str, int], list[dict]] = {(name, load): [] for load in (0, *loads) for name in names}
    whole = True
    try:
        for load in (0, *loads):
            for i in range(min(repeat, QUIET_ROUNDS) if load == 0 else repeat):
                _round(names, load, i, results, together=together)
    except KeyboardInterrupt:
        whole = False
    quiet = {name: [each["took"] for each in results[name, 0]] for name in names}
    return [_row(*case, rounds, quiet[case[0]]) for case, rounds in results.items() if rounds], whole


def _round(
    names: list[str], load: int, i: int, results: dict[tuple[str, int], list[dict]], *, together: bool
) -> None:
    stop = threading.Event()
    with spinning(load), ThreadPoolExecutor(len(names) if together and load else 1) as pool:
        try:
            for name, last in zip(names, pool.map(run, names, [stop] * len(names))):
                if last is None:
                    continue
                results[name, load].append(last)
                words = (
                    "ended well"
                    if last["well"]
                    else f"FAILED, see {last['folder']}\n    " + "\n    ".join(last["said"])
                )
                print(f"{name} beside {load}, {i + 1}: {last['took']:.1f} s, {words}", flush=True)
        except KeyboardInterrupt:
            stop.set()
            raise


def _row(name: str, load: int, rounds: list[dict], quiet: list[float]) -> dict:
    usual = statistics.median(quiet)
    times = sorted(each["took"] / usual for each in rounds)
    well = sum(each["well"] for each in rounds)
    unknown = any(each["lost"] is None for each in rounds)
    return {
        "job": name,
        "load": load,
        "runs": len(rounds),
        "well": well,
        "times": f"{statistics.median(times):.1f} ({times[0]:.1f} to {times[-1]:.1f})",
        "quiet": f"{usual:.1f} s",
        "lost": f"{sum(each['lost'] or 0 for each in rounds)}{' or more' if unknown else ''}",
    }


def main(words: list[str]) -> int:
    """Measure and print the table; exit code 1 if a run did not end well or lost a frame, 130 if stopped."""
    heed_signals()
    parser = argparse.ArgumentParser(prog="python -m benchmarks busy", description=__doc__)
    parser.add_argument("--repeat", type=int, default=10, help="runs of each job beside each load")
    parser.add_argument(
        "--load", type=int, nargs="+", default=[2, 4, 8], help="numbers of spinning processes"
    )
    parser.add_argument("--only", choices=JOBS, nargs="+", default=list(JOBS), help="jobs; default all")
    parser.add_argument("--together", action="store_true", help="the jobs of a round beside each other too")
    options = parser.parse_args(words)
    rows, whole = measure(options.only, options.load, options.repeat, together=options.together)
    table = Table("job", "beside", "ended well", "time / quiet", "quiet", "frames lost")
    for row in rows:
        well = f"{row['well']} of {row['runs']}"
        table.add_row(row["job"], str(row["load"]), well, row["times"], row["quiet"], row["lost"])
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if not whole:
        print("stopped before the end", flush=True)
        return 130
    return 0 if all(row["well"] == row["runs"] for row in rows) else 1


if __name__ == "__main__":  # one job, in a process of its own; told to end, it leaves its children in order
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(json.dumps(JOBS[sys.argv[2]]()))

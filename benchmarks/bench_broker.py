"""What the broker's client and device add to a call and to a step, also to the 1000th."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import bluesky.plans as bp
import matplotlib
import numpy as np
from bluesky import RunEngine
from ophyd.sim import SynAxis, SynSignal

from sfdaq_ophyd.clients import BrokerClient
from sfdaq_ophyd.devices import SfDaqBroker
from sfdaq_ophyd.devices._status import ActionStatus
from sfdaq_ophyd.plans import sf_scan
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.wire.broker_request import RetrieveRequest
from sfdaq_ophyd.wire.pulse_id import PulseRange

from .aged import LongScan
from .pairs import Ratio, interleave, result, timed

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
MAIN = "from sfdaq_ophyd.cli import main; main()"
N_STEPS = 1000
ROUNDS, ROUND_STEPS = 20, 25
PAIRS = 8
ADDED_BAR = 0.005
"""s that device and client may add to a step."""


class TwoPulses:
    """A pulse id that makes every acquisition wait for two pulses, and measures how long that took."""

    name, parent = "pulse_id", None

    def __init__(self):
        self.now, self.waited = 20_000_000_000, []

    def get(self):
        self.now += 10
        return self.now

    def check(self, timeout=None, n_pulses=10):
        return 100.0

    def wait_past(self, pulse_id, timeout=None):
        status = ActionStatus(self, "pulse", 10, unit="pulses")
        begin = time.perf_counter()

        def over():
            self.waited.append(time.perf_counter() - begin)
            status.succeed()

        timer = threading.Timer(0.02, over)
        timer.daemon = True
        timer.start()
        return status


@contextmanager
def broker():
    """A simulated broker in a process of its own; yields its addresses, and a folder."""
    with simulated("broker", "1") as (addresses, folder):
        yield addresses["broker"], folder


@contextmanager
def simulated(only: str, speed: str, **options):
    """Simulators in a process of their own; yields their addresses by part, and a folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", MAIN, "sim", "--only", only, "--json", "--speed", speed]
        command += ["--directory", folder]
        for name, value in {"broker_delays": 0, **options}.items():
            command += ["--option", f"{name}={value}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline().strip() == "READY"
            yield json.loads(process.stdout.readline()), Path(folder)
        finally:
            process.terminate()
            process.wait(20)


def raw_call(url: str, method: str, path: str, body: bytes) -> None:
    """The same call with nothing around it."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    json.loads(connection.getresponse().read())
    connection.close()


def beside_a_raw_call(ours, url: str, method: str, path: str, body: dict) -> tuple:
    """Return the s of calls of ours, and of a bare one beside each."""
    text = json.dumps(body).encode()
    return interleave([timed(ours), timed(lambda: raw_call(url, method, path, text))], rounds=100)


def client_share(device) -> float:
    """Median of what our client adds to a call, s."""
    call = ("GET", "/get_current_run_number", {"pgroup": "p12345"})
    client = device.client
    ours, bare = beside_a_raw_call(lambda: client.get_current_run_number("p12345"), client.url, *call)
    return float(np.median(ours - bare))


def request(first: int, n: int) -> RetrieveRequest:
    """Return a request as a step scan makes it."""
    return RetrieveRequest(
        pgroup="p12345",
        run_number=0,
        pulses=PulseRange(first, first + n - 1),
        detectors={"JF01T03V01": {"adc_to_energy": True}},
        channels=["SAR:A", "SAR:B"],
        scan_info={"scan_name": "s", "name": ["x"], "scan_values": [1.0], "scan_readbacks": [1.01]},
    )


def overhead_of_a_retrieval() -> dict:
    """Ask for data through the client, and the same bytes with http.client, in turns."""
    with (
        Facility(only=["broker"], broker_writers=False) as facility,
        BrokerClient(facility.broker.url) as client,
    ):
        asked = request(facility.clock.now() - 1000, 100)
        body = {**asked.to_wire(), "client_request_id": "0" * 36}
        call = ("POST", "/retrieve_from_buffers", body)
        ours, bare = beside_a_raw_call(lambda: client.retrieve_from_buffers(asked), client.url, *call)
    added = ours - bare
    return result(
        "broker client: time added to a retrieval / 5 ms",
        Ratio(added, np.full(added.shape, ADDED_BAR)),
        most=1.0,
        baseline="the same request with http.client",
        note=f"{np.median(ours) * 1e3:.2f} ms, baseline {np.median(bare) * 1e3:.2f} ms, "
        f"added {np.median(added) * 1e3:.2f} ms",
    )


def step_times(plan) -> tuple[list[float], list[float]]:
    """Run a plan; return the s between events: of the clock, and of this process on a CPU."""
    stamps = []
    engine = RunEngine(context_managers=[])
    engine.subscribe(lambda *_: stamps.append((time.perf_counter(), time.process_time())), "event")
    engine(plan)
    steps = [(after[0] - before[0], after[1] - before[1]) for before, after in zip(stamps, stamps[1:])]
    return tuple(map(list, zip(*steps)))


def device_for(addresses, folder, **more) -> SfDaqBroker:
    """Return a device that records what `more` names."""
    return SfDaqBroker(
        addresses["broker"],
        addresses["slow"],
        name="sfdaq",
        pgroup="p12345",
        sf_root=addresses["root"],
        directory=folder / "tables",
        **{"pulse_id": TwoPulses(), **more},
    )


def device_of(addresses, folder) -> tuple[SfDaqBroker, list[float]]:
    """Return a device, and a list that grows by the s of each request for data."""
    device = device_for(addresses, folder, channels=["SIM:CHANNEL"])
    service, spent = device.client._services["broker"], []
    request = service.request

    def measured(*args, **kwargs):
        begin = time.perf_counter()
        try:
            return request(*args, **kwargs)
        finally:
            if args[1] == "/retrieve_from_buffers":
                spent.append(time.perf_counter() - begin)

    service.request = measured
    return device, spent


def own_times(device, spent, n_steps: int) -> tuple[list[float], list[float]]:
    """Scan; return the times of steps without pulses and server, and the CPU times of steps, s."""
    spent.clear()
    device.pulse_id.waited.clear()
    steps, cpu = step_times(sf_scan([device], SynAxis(name="motor"), 0, 1, n_steps))
    waited = device.pulse_id.waited
    return [step - sent - pulses for step, sent, pulses in zip(steps, spent[1:], waited[1:])], cpu


def median_of_own_times(device, spent) -> float:
    """Return the s of a typical step in a short scan, without pulses and server."""
    return statistics.median(own_times(device, spent, ROUND_STEPS)[0])


def added_per_step() -> dict:
    """Short scans with our device and with one that does nothing, in turns."""
    noop = SynSignal(name="noop", func=lambda: 0)

    def bare() -> float:
        return statistics.median(step_times(bp.scan([noop], SynAxis(name="motor"), 0, 1, ROUND_STEPS))[0])

    with broker() as (addresses, folder):
        device, spent = device_of(addresses, folder)
        share = client_share(device)
        figures = interleave([partial(median_of_own_times, device, spent), bare], rounds=ROUNDS)
    added = figures[0] - figures[1] + share
    return result(
        "broker: added per step",
        Ratio(added, np.full(ROUNDS, ADDED_BAR)),
        most=1.0,
        baseline="5 ms; beyond two pulses, server time and a step of a detector that does nothing",
        note=f"{1000 * np.median(added):.2f} ms, of which the client {1000 * share:.2f} ms; "
        f"a step of a detector that does nothing {1000 * np.median(figures[1]):.2f} ms",
    )


def long_scan() -> list[dict]:
    """Scan 1000 steps, the last of them in turns with the first of short scans; and once for their memory."""
    with broker() as (addresses, folder):
        device, spent = device_of(addresses, folder)
        short = device_of(addresses, folder / "short")
        scan = LongScan(sf_scan([device], SynAxis(name="motor"), 0, 1, N_STEPS))
        scan.go_on(N_STEPS - (1 + PAIRS) * ROUND_STEPS)
        late, early = interleave(
            [
                lambda: statistics.mean(scan.go_on(ROUND_STEPS)[5:, 1]),
                lambda: statistics.mean(own_times(*short, ROUND_STEPS)[1][5:]),
            ],
            rounds=PAIRS,
        )
        scan.finish()
        steps, cpu = np.array(scan.steps[1:]).T
        own = steps - spent[1:] - device.pulse_id.waited[1:]
        memory = memory_of(device, spent)
    kept = [(n, used) for n, used in memory if n >= 200]
    growth = (kept[-1][1] - kept[0][1]) / max(1, kept[-1][0] - kept[0][0])
    plot(own, cpu, memory)
    return [
        result(
            "broker: 1000th step",
            Ratio(late, early),
            most=1.3,
            baseline=f"steps of short scans: {1000 * np.median(early):.2f} ms of CPU time, all threads",
            note=f"last {PAIRS * ROUND_STEPS}: {1000 * np.median(late):.2f} ms",
        ),
        {
            "name": "broker: memory kept per step",
            "ratio": growth / 4096,
            "bar": 1.0,
            "met": growth <= 4096,
            "baseline": "4 kB",
            "note": f"{growth:.0f} bytes per step after the 200th",
        },
    ]


def memory_of(device, spent) -> list[tuple[int, int]]:
    """Scan; return (step, bytes held) as it goes on."""
    memory, done = [], threading.Event()

    def watch():
        while not done.wait(0.2):
            memory.append((len(spent), tracemalloc.get_traced_memory()[0]))

    spent.clear()
    tracemalloc.start()
    threading.Thread(target=watch, daemon=True).start()
    step_times(sf_scan([device], SynAxis(name="motor"), 0, 1, N_STEPS))
    done.set()
    tracemalloc.stop()
    # the end of a run hands over the rows of all its files at once: that is no step
    return [(n, used) for n, used in memory if n < N_STEPS]


def plot(own, cpu, memory) -> None:
    """Draw all against the step."""
    figure, (times, used) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), layout="constrained")
    for values, label in ((own, "time, without pulses and server"), (cpu, "CPU time, all threads")):
        times.plot([1000 * value for value in values], ".", markersize=2, label=label)
    times.set(ylabel="step, ms", ylim=(0, 4000 * statistics.median(own)))
    times.legend(loc="upper right")
    used.plot(*zip(*[(n, value / 2**20) for n, value in memory]))
    used.set(xlabel="step", ylabel="memory, MiB", ylim=(0, None))
    figure.savefig(HERE / "broker_steps.png", dpi=100)
    plt.close(figure)


def check_of_a_long_range() -> dict:
    """Make and write a request for 60 000 pulses, against json.dumps of the body it makes."""
    body = request(21_000_000_000, 60_000).to_wire()
    check, dump = lambda: request(21_000_000_000, 60_000).to_wire(), lambda: json.dumps(body)
    ours, bare = interleave([timed(check), timed(dump)], rounds=200)
    return result(
        "broker: check of 60 000 pulses / 1 ms",
        Ratio(ours, np.full(ours.shape, 1e-3)),
        most=1.0,
        baseline="json.dumps of the same request",
        note=f"{np.median(ours) * 1e6:.0f} us, baseline {np.median(bare) * 1e6:.0f} us",
    )


BENCHMARKS = [added_per_step, long_scan, overhead_of_a_retrieval, check_of_a_long_range]

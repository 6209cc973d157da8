"""What each simulator costs, idle and at full rate, and how quickly a 16M image of the monitor comes.

CPU times of the simulators' processes, so that other work on the machine does not count. Each cost is
measured `TIMES` times: the ratio is the median, and the note has the spread.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import requests
import zmq

from benchmarks.pairs import Ratio, interleave, result, timed
from sfdaq_ophyd.clients import BrokerClient
from sfdaq_ophyd.wire.broker_request import RetrieveRequest
from sfdaq_ophyd.wire.pulse_id import PulseRange

SECONDS = float(os.environ.get("BENCH_SECONDS", "2"))
TIMES = 5
"""s of each measurement of a cost, and how many there are."""

IDLE_BAR = 5.0
"""% of a core that an idle simulator may cost."""

N_RETRIEVED = 1 + TIMES

TICK = 1 / os.sysconf("SC_CLK_TCK")


@contextmanager
def simulator(part: str, *options: str, folder: str = ""):
    """Run one part with ``sfdaq sim``, files in `folder`; yields its process id and its addresses."""
    command = [sys.executable, "-c", "from sfdaq_ophyd.cli import main; main()", "sim", "--json"]
    command += [
        "--speed",
        "auto",
        "--only",
        part,
        *(word for option in options for word in ("--option", option)),
    ]
    command += ["--directory", folder] if folder else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        process.stdout.readline()
        yield process.pid, json.loads(process.stdout.readline())[part.replace("-", "_")]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def cpu_time(pid: int) -> float:
    """Return the CPU time of a process and all its descendants, s."""
    own = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) * TICK
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            own += sum(cpu_time(int(child)) for child in (task / "children").read_text().split())
    return own


def cost(pid: int) -> list[float]:
    """Return how much of a core a simulator takes, %, as often as `TIMES` says."""
    found = []
    for _ in range(TIMES):
        begun, used = time.monotonic(), cpu_time(pid)
        time.sleep(SECONDS)
        found.append(100 * (cpu_time(pid) - used) / (time.monotonic() - begun))
    return found


def row(name: str, percents: Sequence[float], bar: float, note: str = "") -> dict:
    """Return the row of a cost: its ratio is to a whole core."""
    note = f"{np.median(percents):.1f} % of a core, {min(percents):.1f} to {max(percents):.1f}" + (
        f"; {note}" if note else ""
    )
    ratio = Ratio(percents, np.full(len(percents), 100.0))
    return result(f"simulators: {name}", ratio, most=bar / 100, baseline="one core", note=note)


@contextmanager
def taking(*endpoints: str):
    """Take every message of some streams, in a thread, and count them."""
    context, ended, counts = zmq.Context(), threading.Event(), [0]
    sockets = []
    for endpoint in endpoints:
        socket = context.socket(zmq.SUB)
        socket.set(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)
        sockets.append(socket)

    def take():
        poller = zmq.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        while not ended.is_set():
            for socket, _ in poller.poll(100):
                socket.recv_multipart(copy=False)
                counts[0] += 1
        context.destroy(linger=0)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield counts
    finally:
        ended.set()
        thread.join()


def pvs():
    """Publish the pulse id at 100 Hz, to nobody and to one client."""
    with simulator("pvs") as (pid, addresses):
        idle = row("PVs, idle", cost(pid), IDLE_BAR, "the pulse id is written at 100 Hz")
        environment = {**os.environ, "EPICS_CA_ADDR_LIST": addresses["ca"], "EPICS_CA_AUTO_ADDR_LIST": "NO"}
        code = "import sys; from caproto.threading.client import Context; c = Context();"
        code += "pv, = c.get_pvs(sys.argv[1]); pv.wait_for_connection(); s = pv.subscribe();"
        code += "f = lambda *_: None; s.add_callback(f); print('on', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", code, addresses["pulse_id"]]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        client = subprocess.Popen(command, env=environment, **pipes)
        try:
            client.stdout.readline()
            return [idle, row("PVs, pulse id monitored", cost(pid), 3 * IDLE_BAR)]
        finally:
            client.kill()
            client.communicate()


def jungfrau():
    """Three modules at 100 Hz, with nobody and with a receiver."""
    with simulator("jungfrau", "jungfrau_name=JF01T03V01") as (pid, addresses):
        idle = row("Jungfrau, idle", cost(pid), IDLE_BAR)
        with taking(*(addresses[f"module{i}"] for i in range(3))) as counts:
            time.sleep(1)
            before, begun = counts[0], time.monotonic()
            percents = cost(pid)
            rate = (counts[0] - before) / 3 / (time.monotonic() - begun)
        return [idle, row("Jungfrau, three modules", percents, 40, f"came at {rate:.0f} Hz")]


def eiger():
    """A 16M: idle, and its images one after the other, against the same bytes from a bare socket."""
    with simulator("eiger", "eiger_model=16M", "eiger_initialized=true") as (pid, addresses):
        idle = row("Eiger 16M, idle", cost(pid), IDLE_BAR)
        get = take_16m(addresses["url"])
        with bare_server(72_374_672) as url:
            each, used, n = 4, [], 4 * TIMES

            def measured() -> None:
                used.append(cpu_time(pid))
                get()

            ours, bare = interleave([timed(measured), timed(getter(url, "/"))], rounds=n, warm_up=0)
            used.append(cpu_time(pid))
            percents = 100 * 10 * np.diff(used[::each]) / each
    rate = 1 / float(np.median(ours))
    return [
        idle,
        row("Eiger 16M, ten images a second", percents, 80, f"up to {rate:.0f} Hz"),
        result(
            "simulators: 16M image of the monitor", Ratio(ours, bare), most=1.5, baseline="a bare socket's"
        ),
        result(
            "simulators: 16M images, one after the other",
            Ratio(1 / ours, np.full(n, 10.0)),
            least=1.0,
            limit=Ratio(1 / bare, np.full(n, 10.0)),
            baseline="10 Hz",
            note=f"{rate:.1f} Hz, 72 MB each; a bare socket's {1 / np.median(bare):.1f} Hz",
        ),
    ]


def eiger_stream():
    """The stream at full rate: a 1M at 500 Hz, a 16M at 231 Hz, with a client that drops the images."""
    rows = []
    for model, asked, bar in (("1M", 500, 60), ("16M", 231, 100)):
        with simulator("eiger", f"eiger_model={model}", "eiger_initialized=true") as (pid, addresses):
            n, put = round(asked * SECONDS), putter(addresses["url"])
            put("stream/api/1.8.0/config/format", "cbor")
            put("stream/api/1.8.0/config/mode", "enabled")
            put("detector/api/1.8.0/config/nimages", n)
            put("detector/api/1.8.0/config/frame_time", 1 / asked)
            with zmq.Context() as context, context.socket(zmq.PULL) as socket:
                socket.connect(addresses["stream"])
                put("detector/api/1.8.0/command/arm")
                while not socket.poll(100):  # its start came before it was connected
                    put("detector/api/1.8.0/command/arm")
                came = [take_series(pid, put, socket, n) for _ in range(TIMES)]
        rates, percents, sizes = np.transpose(came)
        name = f"Eiger {model}, its stream at {asked} Hz"
        note = f"came at {np.median(rates):.0f} Hz, {min(rates):.0f} to {max(rates):.0f}, "
        note += f"{np.median(rates * sizes) / 1e6:.0f} MB/s"
        rows.append(row(name, percents * asked / rates, bar, note))
    return rows


def take_series(pid: int, put, socket: zmq.Socket, n: int) -> tuple[float, float, float]:
    """Take the frames of a series; return their rate, Hz, the simulator's cost, %, and a frame's bytes."""
    put("detector/api/1.8.0/command/arm")
    used, sizes = cpu_time(pid), []
    trigger = threading.Thread(target=put, args=["detector/api/1.8.0/command/trigger"])
    trigger.start()
    begun = time.monotonic()
    while len(sizes) < n:
        if len(message := socket.recv(copy=False)) > 10_000:  # not a start, nor an end
            sizes.append(len(message))
    seconds = time.monotonic() - begun
    percent = 100 * (cpu_time(pid) - used) / seconds
    trigger.join()
    return n / seconds, percent, float(np.mean(sizes))


def putter(url: str):
    """Return a function that sets a parameter, or sends a command."""
    session = requests.Session()

    def put(path, value=None):
        payload = {} if value is None else {"value": value}
        session.put(f"{url}/{path}", json=payload, timeout=120).raise_for_status()

    return put


def take_16m(url: str):
    """Make frames at 50 Hz without end; returns a function that takes the next one."""
    session, put = requests.Session(), putter(url)
    put("monitor/api/1.8.0/config/mode", "enabled")
    put("monitor/api/1.8.0/config/discard_new", False)
    put("detector/api/1.8.0/config/nimages", 1_000_000)
    put("detector/api/1.8.0/config/frame_time", 0.02)
    put("detector/api/1.8.0/command/arm")
    with contextlib.suppress(requests.ReadTimeout):  # it would answer when the series is over
        session.put(f"{url}/detector/api/1.8.0/command/trigger", timeout=0.5)
    return getter(url, "/monitor/api/1.8.0/images/next?timeout=5000")


def getter(url: str, path: str):
    """Return a function that gets one reply into memory that is used again."""
    connection, memory = http.client.HTTPConnection(url.removeprefix("http://")), memoryview(bytearray(2**27))

    def get():
        connection.request("GET", path)
        reply, n = connection.getresponse(), 0
        while got := reply.readinto(memory[n:]):
            n += got

    return get


@contextmanager
def bare_server(n_bytes: int):
    """Serve as many bytes over HTTP with one ``sendall``, from a process of its own; yields its URL."""
    code = f"""
import socket, time
body, head = bytes({n_bytes}), b"HTTP/1.1 200 OK\\r\\nContent-Length: {n_bytes}\\r\\n\\r\\n"
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
peer = server.accept()[0]
while peer.recv(65536):
    peer.sendall(head); peer.sendall(body)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def std_daq():
    """Idle, and writing the images of three modules at 100 Hz."""
    with (
        tempfile.TemporaryDirectory() as folder,
        simulator("std-daq", "std_daq_image_shape=[16, 32]", folder=folder) as (pid, addresses),
    ):
        requests.post(addresses["url"] + "/writer/stop", json={}, timeout=60)
        idle = row("standard DAQ, idle", cost(pid), IDLE_BAR, "images follow the clock, none is written")
        wanted = {"output_file": f"{folder}/images.h5", "n_images": 5000, "run_id": 1}
        requests.post(addresses["url"] + "/writer/write_async", json=wanted, timeout=60).raise_for_status()
        return [idle, row("standard DAQ, writing", cost(pid), 100, "images of 16 x 32 at 100 Hz")]


def broker():
    """Idle, both services and all writers; and at full rate: a second of pulses written each second."""
    with (
        tempfile.TemporaryDirectory() as folder,
        simulator("broker", "broker_delays=0", folder=folder) as (pid, addresses),
        BrokerClient(addresses["broker"]) as client,
    ):
        idle = row("broker, idle", cost(pid), IDLE_BAR)
        seconds = []
        for k in range(N_RETRIEVED):
            pulses, used = PulseRange(20_000_000_000 + 100 * k, 20_000_000_099 + 100 * k), cpu_time(pid)
            detectors = {"JF01T03V01": {}}
            asked = RetrieveRequest(
                pgroup="p12345", pulses=pulses, detectors=detectors, channels=["SIM:A", "SIM:B"]
            )
            client.retrieve_from_buffers(asked)
            while done_requests(folder) < 2 * (k + 1):
                time.sleep(0.05)
            seconds.append(cpu_time(pid) - used)
    scene, *seconds = seconds  # the first draws it
    note = f"100 pulses of 3 modules and 2 channels; {scene:.2f} s of CPU for the first"
    return [idle, row("broker, writing 100 pulses a second", 100 * np.array(seconds), 100, note)]


def done_requests(folder: str) -> int:
    """Return how many files the broker's writers say they have written."""
    logs = Path(folder).rglob("*.log")
    return sum(path.read_text().count("processing request took") for path in logs)


BENCHMARKS = [pvs, jungfrau, eiger, eiger_stream, std_daq, broker]

"""Processes that are suspended, and a scan that is in mid-exposure."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]

SCAN = """
from bluesky import RunEngine
import bluesky.plans as bp
{make}
RE = RunEngine(context_managers=[])
RE(bp.count([det], {n_points}), {{"event": lambda name, doc: print(doc["data"]["det_event_id"], flush=True)}})
"""


@contextlib.contextmanager
def suspended(process: subprocess.Popen | psutil.Process, seconds: float):
    """Suspend a process for so long; what the body does then, it finds when it goes on."""
    process.send_signal(signal.SIGSTOP)
    try:
        threading.Event().wait(seconds)  # nothing to look at
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def scan_suspended(make: str, n_points: int, seconds: float) -> list[str]:
    """Return the event ids of a scan of `det`, which the code `make` makes.

    0.1 s after the first point, while the second is exposed, the process is suspended for `seconds`.
    """
    code = SCAN.format(make=make, n_points=n_points)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        try:
            first = child.stdout.readline()
            threading.Event().wait(0.1)
            with suspended(child, seconds):
                pass
            return (first + child.stdout.read()).split()
        finally:
            child.kill()

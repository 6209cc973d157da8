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
import threading
from bluesky import RunEngine
import bluesky.plans as bp
{make}
triggered = []

def say(what):
    print(f"{{what}}\\n", end="", flush=True)  # at once: two threads do

def look():
    while not ({under_way}):
        threading.Event().wait(0.005)
    say("EXPOSES")

def note(msg):
    if msg.command == "trigger":
        triggered.append(msg)
    elif msg.command == "wait" and len(triggered) == 2:
        threading.Thread(target=look, daemon=True).start()

RE = RunEngine(context_managers=[])
RE.msg_hook = note
RE(bp.count([det], {n_points}), {{"event": lambda name, doc: say(doc["data"]["det_event_id"])}})
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


def scan_suspended(make: str, n_points: int, seconds: float, under_way: str) -> list[str]:
    """Return the event ids of a scan of `det`, which the code `make` makes.

    The process is suspended for `seconds` once it has triggered the second point and the expression
    `under_way` tells that an exposure is.
    """
    code, said = SCAN.format(make=make, n_points=n_points, under_way=under_way), []
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        try:
            for line in child.stdout:
                if line == "EXPOSES\n":
                    break
                said.append(line.strip())
            else:
                raise AssertionError(f"no exposure was seen under way; event ids {said}")
            with suspended(child, seconds):
                pass
            return said + child.stdout.read().split()
        finally:
            child.kill()

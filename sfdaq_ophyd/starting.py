"""The start of a child process: it fails when it does nothing more, not when the machine is slow.

A child says on its standard output what it is doing, ``STEP importing``, any number of times, and then the
line that its parent waits for. The parent's limit begins anew with every step, and time in which the child
had no CPU does not count.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import ServiceTimeout
from .limits import BEAT, Limit, counted_time

logger = logging.getLogger(__name__)

STEP = "STEP "
"""What the line of a step begins with."""


@contextlib.contextmanager
def without_collection(*, ours: bool = False) -> Iterator[None]:
    """Import much: the collector, which finds nothing in what stays, would take a quarter of the time.

    Parameters
    ----------
    ours : bool
        This process is ours alone: what is there now stays to its end, and there too the collector need not
        look at it, which would take as long again.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ours:
            gc.freeze()
            atexit.register(gc.freeze)
        if collects:
            gc.enable()


def report_step(what: str) -> None:
    """Child's side: say what it does from now on."""
    sys.stdout.write(f"{STEP}{what}\n")
    sys.stdout.flush()


def next_line(
    lines: queue.Queue[str | None] | queue.SimpleQueue[str | None],
    pid: int,
    *,
    what: str,
    timeout: float,
    said: Callable[[], str] = str,
    hint: str = "",
    on_step: Callable[[str], object] | None = None,
) -> str | None:
    """Return the next line of a child that is no step; None if its output ended.

    Parameters
    ----------
    lines : queue
        What a thread reads from the child's standard output, line by line without the newline; None at its
        end.
    pid : int
        The child.
    what : str
        What is waited for, as a message names it: ``"start of the simulated jungfrau"``.
    timeout : float
        s without a step, not counting those in which we or the child had no CPU.
    said : callable
        Returns what else the child said, for the message.
    hint : str
        What a person does about it.
    on_step : callable, optional
        Called with every step, and again while the child waits for a CPU: hand on to a parent of one's own
        with `report_step`.

    Raises
    ------
    ServiceTimeout
        With the step, and how long all has taken.
    """
    begun, step = counted_time(), "starting Python, importing"
    limit, starved = Limit(timeout), time_without_cpu(pid)
    while True:
        try:
            line = lines.get(timeout=limit.step())
        except queue.Empty:
            if not limit.reached():
                continue
            lately = time_without_cpu(pid) - starved
            if lately < BEAT:
                took = f"step {step!r}, {counted_time() - begun:.0f} s after the beginning"
                raise ServiceTimeout(what, timeout, "; ".join(filter(None, [took, said()])), hint) from None
            limit, starved = Limit(lately), starved + lately
            step_now = f"{step}, waiting for a CPU"
        else:
            if line is None or not line.startswith(STEP):
                return line
            step = step_now = line.removeprefix(STEP)
            limit, starved = Limit(timeout), time_without_cpu(pid)
        logger.info("%s: %s", what, step_now)
        if on_step is not None:
            on_step(step_now)


def time_without_cpu(pid: int) -> float:
    """Return how long a process was ready to run and had no CPU, s; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0

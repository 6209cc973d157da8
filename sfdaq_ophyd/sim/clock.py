"""The machine's pulse clock, one for all simulators of a facility, and what there is to see at each pulse.

The state lies in a small memory-mapped file, so that a simulator in a child process sees the same clock:
it opens the clock by its path. Pausing or stepping it in one process is seen by all.

A clock that is patient waits for its followers, those that do something at every pulse: it counts at 100 Hz
while all keep up, and stands rather than run away from the slowest. Its maker's process keeps it.

The broker writes its files long after the pulses, when the motor stands elsewhere; what it writes of a pulse
has to be what the live stream showed of it. So there is a history of views.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import logging
import math
import mmap
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..limits import Limit, counted_time

logger = logging.getLogger(__name__)

PULSE_PERIOD = 0.01
"""Seconds between machine pulses."""

EPOCH_OF_PULSE_0 = 1504516232
"""A simulator's choice: pulse ids grow at 100 Hz from here (wire reference jungfrau, section 9)."""

LEAD = 10
"""Pulses by which a patient clock is ahead of its slowest follower at the most."""

KEEP_PERIOD = 0.02
"""Seconds between two looks of a patient clock at its followers."""

SLOW = 90.0
"""Hz below which the clock is said to be slow."""

LOOK = 0.005
"""Seconds between two looks at a clock that stands."""

RATE_WINDOW = 3.0
"""Seconds over which the rate is measured."""

_NO_CEILING = 2**62


def _history(most: int, **fields: str) -> np.dtype:
    """Return the layout of the last `most` records, and of how many there were."""
    record = np.dtype([("pulse_id", "i8"), *fields.items()], align=True)
    return np.dtype([("n", "i8"), ("records", record, most)], align=True)


_LAYOUT = np.dtype(
    [
        ("ceiling", "i8"),
        ("rate", "f8"),
        ("patient", "?"),
        ("followers", np.dtype([("name", "S32"), ("pid", "i8"), ("finished", "i8")]), 32),  # pid 0: free
        ("anchors", _history(2**16, steady="f8", host="f8", running="?")),
        ("views", _history(2**14, light="?", sample="f8", triggered="?")),
    ],
    align=True,
)
"""The clock's memory: each number lies at a multiple of its size, so that none is read half-written."""

CENTRE, SIGMA = 1.0, 1.0
"""Where the sample is in the light, and how wide it is: position of M1, mm."""


def sample_at(position: float) -> float:
    """Return how much of the sample is in the light with M1 at `position` mm, 0 to 1."""
    return math.exp(-(((position - CENTRE) / SIGMA) ** 2) / 2)


class View(NamedTuple):
    """What there is to see.

    Attributes
    ----------
    light : bool
        Whether light reaches the sample: the beam is there and the shutter open.
    sample : float
        How much of the sample is in the light, 0 to 1.
    triggered : bool
        Whether the beamline's trigger runs: without it detectors take no frame.
    """

    light: bool
    sample: float
    triggered: bool = True


class _History:
    """The last records of what changes at some pulses. Whoever adds one must be alone in doing so.

    Parameters
    ----------
    memory : ndarray of one `_history`
    """

    def __init__(self, memory: np.ndarray):
        self._n, self._records = memory["n"], memory["records"][0]

    def add(self, *record) -> None:
        """Add what holds from a pulse on, the first value."""
        self._records[self._n[0] % len(self._records)] = record
        self._n[0] += 1  # after it: nobody reads half a record

    def newest(self) -> tuple:
        """Return what holds for the pulses to come."""
        return self._record(int(self._n[0]) - 1)

    def at(self, pulse_id: int) -> tuple:
        """Return what holds at a pulse; of one before all that are known, the oldest."""
        n = int(self._n[0])
        if (newest := self._record(n - 1))[0] <= pulse_id or n == 1:
            return newest
        known = range(max(0, n - len(self._records) + 1), n - 1)
        later = bisect.bisect_right(known, pulse_id, key=lambda index: self._record(index)[0])
        return self._record(known[max(0, later - 1)])

    def _record(self, index: int) -> tuple:
        return self._records[index % len(self._records)].item()


class Follower:
    """One that does something at every pulse; made by `PulseClock.follow`."""

    def __init__(self, slot: np.ndarray):
        self._slot: np.ndarray | None = slot

    def finished(self, pulse_id: int) -> None:
        """Say that all there was to do for this pulse and those before it is done."""
        if self._slot is not None:
            self._slot["finished"] = pulse_id

    def close(self) -> None:
        """Follow no more. Safe twice."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot["pid"] = 0

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


class PulseClock:
    """Count machine pulses: +1 every 10 ms of host time, unless paused or waiting for a follower.

    Parameters
    ----------
    path : str or Path, optional
        Open the clock of another process; default makes a new one, starting at today's pulse id.
    patient : bool
        Whether a new clock waits for its followers (see `follow`). Another process's is what it is.

    Attributes
    ----------
    start_pulse_id : int
        Of the moment it was made.

    Notes
    -----
    What is read never tears and never goes back: a new anchor (a pulse and its time) is written beside the
    old ones and then counted, and nobody counts on beyond the ceiling, which is raised after that.
    """

    def __init__(self, path: str | Path | None = None, *, patient: bool = False):
        self._owner = path is None
        if path is None:
            self._file, path = tempfile.mkstemp(prefix="sfdaq-clock-")
            # also if this is interrupted
            self._remove = weakref.finalize(self, _remove, Path(path), os.getpid())
            os.truncate(self._file, _LAYOUT.itemsize)
        else:
            self._file = os.open(path, os.O_RDWR)
        self.path = Path(path)
        # unmapped when nobody holds a part of it any more, which may be a follower after the clock was closed
        self._memory = np.frombuffer(mmap.mmap(self._file, _LAYOUT.itemsize), _LAYOUT)
        self._followers = self._memory["followers"][0]
        self._anchors, self._views = _History(self._memory["anchors"]), _History(self._memory["views"])
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._announced = False
        self._say: Callable[[str], object] | None = None
        if not self._owner:
            self.start_pulse_id = self.now()
            return
        self.start_pulse_id = int((time.time() - EPOCH_OF_PULSE_0) / PULSE_PERIOD)
        self._memory["ceiling"] = self.start_pulse_id + LEAD if patient else _NO_CEILING
        self._memory["rate"], self._memory["patient"] = 1 / PULSE_PERIOD, patient
        self._views.add(self.start_pulse_id, *View(True, 1.0))
        self._anchors.add(self.start_pulse_id, _steady_time(), time.time(), True)
        if patient:
            self._keeper = threading.Thread(target=self._keep, name="pulse clock", daemon=True)
            self._keeper.start()

    def now(self) -> int:
        """Return the pulse id of this moment."""
        return self._count(_steady_time())[1]

    @property
    def running(self) -> bool:
        """Whether time moves the clock."""
        return self._anchors.newest()[3]

    @property
    def patient(self) -> bool:
        """Whether the clock waits for its followers."""
        return bool(self._memory["patient"][0])

    @property
    def light(self) -> bool:
        """Whether light reaches the sample from the next pulse on; can be set."""
        return View(*self._views.newest()[1:]).light

    @light.setter
    def light(self, on: bool) -> None:
        self.show(light=bool(on))

    def show(self, **changes) -> None:
        """Change what detectors see from the next pulse on: fields of `View`."""
        with self._writing():
            view = View(*self._views.newest()[1:])
            if (new := view._replace(**changes)) != view:
                self._views.add(self.now() + 1, *new)

    def view(self, pulse_id: int) -> View:
        """Return what there was to see at a pulse: the same in all processes, whenever it is asked."""
        return View(*self._views.at(pulse_id)[1:])

    def time_of(self, pulse_id: int) -> float:
        """Return the host time of a pulse, s since the epoch; of a paused clock, as if it had run on.

        It is the same in all processes, also for pulses before a patient clock stood: the last 65536 times
        that it stood are known.
        """
        at, _, came, _ = self._anchors.at(pulse_id)
        return came + (pulse_id - at) * PULSE_PERIOD

    def due_in(self, pulse_id: int) -> float:
        """Return after how many s to look whether a pulse has come; 0 if it has."""
        if self.now() >= pulse_id:
            return 0.0
        at, steady, _, running = self._anchors.newest()
        due = steady + (pulse_id - at) * PULSE_PERIOD - _steady_time()
        return max(due, 0.0005) if running and due > -PULSE_PERIOD / 2 else LOOK

    def pause(self) -> int:
        """Stop counting; return the pulse id the clock now stands at."""
        with self._writing():
            pulse_id = self._hold() if self.running else self.now()
            self._anchors.add(pulse_id, _steady_time(), self.time_of(pulse_id), False)
        return pulse_id

    def step(self, n: int = 1) -> int:
        """Move a paused clock on by `n` pulses; return the pulse id it now stands at."""
        with self._writing():
            pulse_id, _, _, running = self._anchors.newest()
            if running:
                raise RuntimeError("the pulse clock runs; pause() it before step()")
            self._anchors.add(pulse_id + n, _steady_time(), time.time(), False)
        return pulse_id + n

    def resume(self) -> None:
        """Let time move the clock again, from where it stands."""
        with self._writing():
            pulse_id, _, _, running = self._anchors.newest()
            if not running:
                self._memory["ceiling"] = pulse_id + LEAD if self.patient else _NO_CEILING
                self._anchors.add(pulse_id, _steady_time(), time.time(), True)

    def wait_for(self, pulse_id: int, timeout: float, stop: threading.Event | None = None) -> bool:
        """Wait until the clock has reached `pulse_id`; False after `timeout` s or once `stop` is set."""
        limit, stop = Limit(timeout), stop or threading.Event()
        while due := self.due_in(pulse_id):
            if limit.reached() or stop.wait(min(due, limit.step(0.02))):
                return False
        return True

    def follow(self, name: str) -> Follower:
        """Return a follower, which a patient clock waits for: at first it has finished the present pulse.

        Say ``follower.finished(pulse_id)`` once all of a pulse is done, and of every pulse in which there
        was nothing to do. A follower that cannot finish, because its peer takes nothing, makes the clock
        stand; one whose process has died, or that was closed, does not. Other clocks take no notice, so that
        a simulator follows in any case::

            with clock.follow("jungfrau") as follower:
                last = clock.now()
                while serving:
                    for pulse_id in range(last + 1, clock.now() + 1):
                        send(pulse_id)
                        follower.finished(pulse_id)
                        last = pulse_id
                    time.sleep(clock.due_in(last + 1))
        """
        with self._writing():
            for slot in np.split(self._followers, len(self._followers)):
                if not (slot["pid"][0] and _is_alive(slot["pid"][0])):
                    slot["pid"] = 0  # nobody counts it while it is written
                    slot["name"], slot["finished"] = name.encode()[:32], self.now()
                    slot["pid"] = os.getpid()
                    return Follower(slot)
        raise RuntimeError(
            f"the pulse clock has {len(self._followers)} followers already; {name} is one too many"
        )

    def status(self) -> dict:
        """Say how it runs.

        Returns
        -------
        dict
            ``rate`` over the last seconds, Hz; ``held_by`` the name of the follower it waits for, or "";
            ``followers`` name to the last pulse id finished; ``pulse_id``; ``patient``; ``running``.
        """
        now = self.now()
        waiting = self.patient and self.running and now >= self._memory["ceiling"][0]
        followers = {name.decode("utf-8", "replace"): finished for finished, _, name, _ in self._following()}
        return {
            "pulse_id": now,
            "running": self.running,
            "patient": self.patient,
            "rate": float(self._memory["rate"][0]) if self.running else 0.0,
            "held_by": min(followers, key=followers.__getitem__) if waiting and followers else "",
            "followers": followers,
        }

    def announce(self, say: Callable[[str], object] | None = None) -> None:
        """Say from now on at which rate a patient clock runs: once, and once more should it become slower.

        Parameters
        ----------
        say : callable, optional
            Called with the line; default is the log alone, where a clock below 100 Hz is a warning.
        """
        self._announced, self._say = True, say

    def close(self) -> None:
        """Forget the clock; its maker also removes the file. Safe twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join()
        os.close(self._file)
        if self._owner:
            self._remove()

    # ---- patience -------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Let the clock run on as far as its followers have come, and measure its rate."""
        said: bool | None = None  # whether what was said last is that it is slow
        since, pulse_id = counted_time(), self.now()
        while not self._closing.wait(KEEP_PERIOD):
            with self._writing():
                self._let_run()
            if (seconds := counted_time() - since) < RATE_WINDOW:
                continue
            rate = (self.now() - pulse_id) / seconds
            since, pulse_id = since + seconds, pulse_id + round(rate * seconds)
            self._memory["rate"] = rate
            slow = rate < SLOW
            if self._announced and self.running and (said is None or slow > said):
                said, line = slow, _line(rate, slow)
                logger.log(logging.WARNING if slow and self._say is None else logging.INFO, line)
                if self._say is not None:
                    with contextlib.suppress(Exception):  # nobody reads it, and the clock goes on
                        self._say(line)

    def _let_run(self) -> None:
        if not self.running:
            return
        steady, host = _steady_time(), time.time()
        counted, now = self._count(steady)
        reached = now
        for finished, pid, name, number in self._following():
            if finished + LEAD <= now and not _is_alive(pid):
                logger.warning("the pulse clock's follower %s has died; the clock goes on", name.decode())
                self._followers[number]["pid"] = 0
            else:
                reached = finished
                break
        ceiling = max(reached + LEAD, int(self._memory["ceiling"][0]))
        if counted > now < ceiling:  # it stood, and the next pulse is now
            self._anchors.add(now + 1, steady, host, True)
        self._memory["ceiling"] = ceiling

    def _hold(self) -> int:
        """Return a pulse id beyond which nobody has counted, or will; others count on until they see it."""
        limit = int(self._memory["ceiling"][0])
        while True:
            last = min(self._count(_steady_time())[0] + 1, limit)
            self._memory["ceiling"] = last
            if last == limit or self._count(_steady_time())[0] <= last:
                return last

    # ---- the memory -----------------------------------------------------------------------------------

    def _following(self) -> list[tuple[int, int, bytes, int]]:
        """Return pulse finished, process id, name and slot of all followers, the slowest first."""
        taken = [number for number, pid in enumerate(self._followers["pid"].tolist()) if pid]
        slots = ((number, self._followers[number].item()) for number in taken)
        return sorted((finished, pid, name, number) for number, (name, pid, finished) in slots if pid)

    def _count(self, steady_now: float) -> tuple[int, int]:
        """Return the pulse id by the time alone, and the one that counts."""
        ceiling = int(self._memory["ceiling"][0])  # before the anchor: see the class's notes
        at, steady, _, running = self._anchors.newest()
        if not running:
            return at, at
        counted = at + int((steady_now - steady) / PULSE_PERIOD)
        return counted, max(at, min(counted, ceiling))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Write alone among all threads and processes."""
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


def _steady_time() -> float:
    """Return a time that is the same in all processes and is never set, s."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _remove(path: Path, maker: int) -> None:
    """Remove the file of a clock, once it is closed or forgotten or its maker ends; not when a fork does."""
    if os.getpid() == maker:
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):  # no such file on this system
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def _line(rate: float, slow: bool) -> str:
    if not slow:
        return f"The pulse clock runs at {rate:.0f} Hz."
    return f"The pulse clock runs at {rate:.0f} Hz in place of 100: this machine is busy. No frame is lost."

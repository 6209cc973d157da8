"""The machine's pulse clock, one for all simulators of a facility.

The state lies in a small memory-mapped file, so that a simulator in a child process sees the same clock:
it opens the clock by its path. Pausing or stepping it in one process is seen by all.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import threading
import time
from pathlib import Path

PULSE_PERIOD = 0.01
"""Seconds between machine pulses."""

EPOCH_OF_PULSE_0 = 1504516232
"""A simulator's choice: pulse ids grow at 100 Hz from here (contract jungfrau.md, section 9)."""

_STATE = struct.Struct("<qdq")  # pulse id at anchor, host time of anchor, 1 while running
_SIZE = _STATE.size + 1  # and 1 while light reaches the sample


class PulseClock:
    """Count machine pulses: +1 every 10 ms of host time, unless paused.

    Parameters
    ----------
    path : str or Path, optional
        Open the clock of another process; default makes a new one, starting at today's pulse id.
    """

    def __init__(self, path: str | Path | None = None):
        self._owner = path is None
        if path is None:
            handle, path = tempfile.mkstemp(prefix="sfdaq-clock-")
            os.write(handle, b"\0" * _STATE.size + b"\1")
        else:
            handle = os.open(path, os.O_RDWR)
        self.path = Path(path)
        self._map = mmap.mmap(handle, _SIZE)
        os.close(handle)
        self._lock = threading.Lock()
        if self._owner:
            now = time.time()
            self.start_pulse_id = int((now - EPOCH_OF_PULSE_0) / PULSE_PERIOD)
            self._set(self.start_pulse_id, now, True)
        else:
            self.start_pulse_id = self.now()

    def _get(self) -> tuple[int, float, bool]:
        pulse_id, anchor, running = _STATE.unpack(self._map[: _STATE.size])
        return pulse_id, anchor, bool(running)

    def _set(self, pulse_id: int, anchor: float, running: bool) -> None:
        self._map[: _STATE.size] = _STATE.pack(pulse_id, anchor, running)

    def now(self) -> int:
        """Return the pulse id of this moment."""
        pulse_id, anchor, running = self._get()
        if not running:
            return pulse_id
        return pulse_id + int((time.time() - anchor) / PULSE_PERIOD)

    @property
    def running(self) -> bool:
        """Whether time moves the clock."""
        return self._get()[2]

    @property
    def light(self) -> bool:
        """Whether light reaches the sample: the beam is there and the shutter open."""
        return self._map[_STATE.size] == 1

    @light.setter
    def light(self, on: bool) -> None:
        self._map[_STATE.size] = int(bool(on))

    def time_of(self, pulse_id: int) -> float:
        """Return the host time of a pulse, s since the epoch; of a paused clock, as if it had run on."""
        at, anchor, _ = self._get()
        return anchor + (pulse_id - at) * PULSE_PERIOD

    def pause(self) -> int:
        """Stop counting; return the pulse id the clock now stands at."""
        with self._lock:
            pulse_id = self.now()
            self._set(pulse_id, time.time(), False)
        return pulse_id

    def step(self, n: int = 1) -> int:
        """Move a paused clock on by `n` pulses; return the pulse id it now stands at."""
        with self._lock:
            pulse_id, _, running = self._get()
            if running:
                raise RuntimeError("the pulse clock runs; pause() it before step()")
            self._set(pulse_id + n, time.time(), False)
        return pulse_id + n

    def resume(self) -> None:
        """Let time move the clock again, from where it stands."""
        with self._lock:
            pulse_id, _, running = self._get()
            if not running:
                self._set(pulse_id, time.time(), True)

    def wait_for(self, pulse_id: int, timeout: float, stop: threading.Event | None = None) -> bool:
        """Wait until the clock has reached `pulse_id`; False after `timeout` s or once `stop` is set."""
        deadline = time.monotonic() + timeout
        stop = stop or threading.Event()
        while self.now() < pulse_id:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            due = self.time_of(pulse_id) - time.time() if self.running else 0.02
            if stop.wait(min(max(due, 0.0005), 0.02, left)):
                return False
        return True

    def close(self) -> None:
        """Forget the clock; its maker also removes the file. Safe twice."""
        if not self._map.closed:
            self._map.close()
        if self._owner:
            self.path.unlink(missing_ok=True)

"""What the detectors on the page share: the newest frame, and how it went over the last minutes."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any

from .live_frame import LiveFrame
from .source import GRACE, Rate, Source

HISTORY, HISTORY_STEP = 300, 1.0
"""Marks kept of frame rate and loss rate, and s between two: five minutes."""

LONGEST_FRAME_PERIOD = 60.0
"""s; a frame that is older is old, however slow the detector."""


class DetectorSource(Source):
    """A detector that is looked at: `frame` is the newest one taken from it.

    Attributes
    ----------
    frame : LiveFrame or None
    n_taken : int
        Frames taken from the detector, by all viewers together.
    history : deque of (time, rate, loss rate)
        s since the epoch, Hz, Hz; None where not known. Nothing is added while nobody watches.
    """

    group = "detectors"
    loss_name = "lost"
    """What `n_lost` counts."""

    def __init__(self, name: str, kind: str, address: str, period: float):
        super().__init__(name, kind, address, period)
        self.frame: LiveFrame | None = None
        self.n_taken = 0
        self.history: deque[tuple[float, float | None, float | None]] = deque(maxlen=HISTORY)
        self._loss, self._next_mark = Rate(), 0.0
        self._frame_period = 0.0

    def look(self) -> dict[str, Any]:
        """Take a frame, if there is a new one."""
        frame, about = self.take()
        if frame is not None:
            _ = frame.facts  # computed here, and not in the server's event loop
            before, self.frame = self.frame, frame
            if before is not None and None not in (before.arrived, frame.arrived):
                self._frame_period = frame.arrived - before.arrived
        n_lost = self.n_lost(about.get("counters", {}))
        loss = None if n_lost is None else self._loss.update(n_lost)
        if (now := time.monotonic()) >= self._next_mark:
            self._next_mark = now + HISTORY_STEP
            self.history.append((round(time.time(), 1), about.get("rate"), loss))
        return {**about, "loss_rate": loss}

    @abstractmethod
    def take(self) -> tuple[LiveFrame | None, dict[str, Any]]:
        """Return a frame not seen yet, or None; and state, rate, counters, note, level."""

    @abstractmethod
    def n_lost(self, counters: Mapping[str, int]) -> int | None:
        """Return how many frames were lost, whole or in part, since the page looks; None if not known."""

    def frame_age(self) -> dict[str, float | None]:
        """Return the age of the newest frame, s, and from which on it is old.

        None if the frame was there before the page looked. A frame is old when the next one is overdue, by
        the time between the last two.
        """
        frame = self.frame
        arrived = None if frame is None else frame.arrived
        age = None if arrived is None else round(time.monotonic() - arrived, 2)
        period = min(max(self.period, 1.5 * self._frame_period), LONGEST_FRAME_PERIOD)
        return {"age": age, "old_after": round(period + GRACE, 2)}

    def state(self) -> dict[str, Any]:
        """Return the frame's facts beside the rest."""
        frame = self.frame
        facts = frame.facts if frame else None
        about = {"n_taken": self.n_taken, "frame": facts, "frame_age": self.frame_age()}
        return {**super().state(), **about, "loss_name": self.loss_name}

"""What the detectors on the page share: the newest frame and its facts."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from .live_frame import LiveFrame
from .source import Source


class DetectorSource(Source):
    """A detector that is looked at: `frame` is the newest one taken from it.

    Attributes
    ----------
    frame : LiveFrame or None
    n_taken : int
        Frames taken from the detector, by all viewers together.
    """

    group = "detectors"

    def __init__(self, name: str, kind: str, address: str, period: float):
        super().__init__(name, kind, address, period)
        self.frame: LiveFrame | None = None
        self.n_taken = 0

    def look(self) -> dict[str, Any]:
        """Take a frame, if there is a new one."""
        frame, about = self.take()
        if frame is not None:
            _ = frame.facts  # computed here, and not in the server's event loop
            self.frame = frame
        return about

    @abstractmethod
    def take(self) -> tuple[LiveFrame | None, dict[str, Any]]:
        """Return a frame not seen yet, or None; and state, rate, counters, note."""

    def state(self) -> dict[str, Any]:
        """Return the frame's facts beside the rest."""
        frame = self.frame
        return {**super().state(), "n_taken": self.n_taken, "frame": frame.facts if frame else None}

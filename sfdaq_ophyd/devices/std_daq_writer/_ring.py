"""The ring out of which the writer takes its pixels, and whether it can have been overrun.

A slot holds the image of ``image_id % 100`` until the writer comes to write it. Once 100 more images came,
another one's pixels are there, and neither id nor status in the file tell (contract std-daq.md, section 9).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ...wire.std_daq import Acquisition
from ._rates import Entry, Stats

RING_SLOTS = 100

PUBLISHED = 0.5
"""s by which the DAQ's count of written images may be late: it follows the published statuses."""


class Ring:
    """How far the writer was behind the detector in one file, at the least.

    What is known is how many images came and how many were written in the same seconds: if more came, it was
    behind at their end; if more were written, at their beginning. Only seconds after the first image of the
    file count, for images of before are not its own.

    Made before the acquisition is started.

    Parameters
    ----------
    stats : callable
        `Stats`, or None while there are none.

    Attributes
    ----------
    lag : float
        Images, the largest seen; 0 while nothing is known.
    """

    def __init__(self, stats: Callable[[], Stats | None]):
        self._stats, self._begun = stats, time.monotonic()
        self._first: float | None = None
        self._known: tuple[Entry, ...] = ()
        self._last = self._ahead = self._least = self._most = self._rate = 0.0
        self.lag = 0.0

    def look(self, acquisition: Acquisition) -> float:
        """Take in what was known at the look before, if it still runs; return the lag."""
        stats = self._stats()
        if stats is None or acquisition.start_time is None or acquisition.stop_time is not None:
            return self.lag
        known, self._known = self._known, tuple(stats.entries)
        if not acquisition.n_completed:
            return self.lag
        if self._first is None:
            self._first = stats.moment(acquisition.start_time, time.monotonic() - self._begun)
        for entry in known:
            if entry.end > self._last and entry.begin >= self._first:
                self._take(entry)
        return self.lag

    def _take(self, entry: Entry) -> None:
        if entry.begin != self._last:  # seconds are missing between: from here on again
            self._ahead = self._least = self._most = 0.0
        self._last = entry.end
        self._ahead += entry.sent - entry.written
        self._least, self._most = min(self._least, self._ahead), max(self._most, self._ahead)
        self._rate = max(self._rate, entry.rate)
        self.lag = max(self.lag, self._most - self._least - PUBLISHED * self._rate)

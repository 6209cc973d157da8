"""Throughput of detector and writer: shown while it is known, and summed up, for a ring that can be overrun.

The DAQ says once a second how many images per second came from the detector, and how many were written. That
is a hint; nothing waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ...clients.std_daq_redis import Message, StdDaqRedis
from ...errors import SfdaqError
from ...limits import counted_time
from ...wire.std_daq_config import DaqStats

logger = logging.getLogger(__name__)

PERIOD = 1.0
"""s between two looks: the DAQ's own."""

LONGEST = 1.4
"""s from one entry of the DAQ to the next one, at the most."""

STALE = 3.0
"""s without a new entry after which the newest one says nothing any more."""

JOIN = 0.5
"""s for which `close` waits for the thread; a request under way ends by itself."""


class RatesFollower:
    """A thread that shows the DAQ's stats while it is wanted.

    Parameters
    ----------
    name : str
        Of the thread.
    read : callable
        Returns stats, or None where there are none.
    wanted : callable
        Whether anybody wants to know now.
    show : callable
        Called with stats, or None where they are not known.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], DaqStats | None],
        wanted: Callable[[], bool],
        show: Callable[[DaqStats | None], None],
    ):
        self._read, self._wanted, self._show = read, wanted, show
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Follow no more. Safe twice."""
        self._closing.set()
        self._thread.join(JOIN)

    def _run(self) -> None:
        while not self._closing.wait(PERIOD):
            if not self._wanted():
                continue
            stats = self._read()
            if not self._closing.is_set():
                self._show(stats)


class Entry(NamedTuple):
    """Images between two moments, s, on the clock of whoever knows; `rate` is the writer's, in images/s."""

    begin: float
    end: float
    sent: float
    written: float
    rate: float


class Stats(Protocol):
    """Who knows the DAQ's stats."""

    entries: deque[Entry]

    def __call__(self) -> DaqStats | None:
        """Return the newest; None where nobody knows."""

    def moment(self, start_time: float, elapsed: float) -> float:
        """Return now, on the clock of the entries, `elapsed` s after an acquisition began."""


def _entry(stats: DaqStats, begin: float, end: float, seconds: float) -> Entry:
    sent, written = stats.detector_images_per_second, stats.writer_images_per_second
    return Entry(begin, end, sent * seconds, written * seconds, written)


class StreamedStats:
    """All stats out of a Redis follower, on the DAQ's clock; none once they stop coming.

    Parameters
    ----------
    follower : StdDaqRedis
        Follows at least "stat".
    """

    def __init__(self, follower: StdDaqRedis):
        self.entries: deque[Entry] = deque(maxlen=100)
        self._newest: tuple[DaqStats, float, float] | None = None
        follower.subscribe("stat", self._came)

    def _came(self, message: Message) -> None:
        try:
            stats = DaqStats.from_dict(message.content)
        except SfdaqError as exc:
            logger.debug("no stats: %s", exc)
            return
        end = int(message.entry_id.partition("-")[0]) / 1000
        if self._newest is not None and 0 < (seconds := end - self._newest[1]) <= STALE:
            self.entries.append(_entry(stats, self._newest[1], end, seconds))
        self._newest = (stats, end, counted_time())

    def __call__(self) -> DaqStats | None:
        """Return stats; None if there was no new entry for `STALE` s."""
        newest = self._newest
        return None if newest is None or counted_time() - newest[2] > STALE else newest[0]

    def moment(self, start_time: float, elapsed: float) -> float:
        """Return now, on the DAQ's clock."""
        return start_time + elapsed


class PolledStats:
    """Stats the service is asked for: of the last whole second, whenever that was; some are left out.

    Parameters
    ----------
    read : callable
        Returns stats, or None where there are none.
    """

    def __init__(self, read: Callable[[], DaqStats | None]):
        self.entries: deque[Entry] = deque(maxlen=100)
        self._read, self._counted = read, -STALE

    def __call__(self) -> DaqStats | None:
        """Return stats; None where the service does not tell."""
        try:
            stats = self._read()
        except SfdaqError as exc:
            logger.debug("no stats: %s", exc)
            return None
        now = time.monotonic()
        if stats is not None and now - self._counted > LONGEST:
            self._counted = now
            self.entries.append(_entry(stats, now - PERIOD - LONGEST, now, PERIOD))
        return stats

    def moment(self, start_time: float, elapsed: float) -> float:
        """Return now, on this process' clock."""
        return time.monotonic()

"""What the DAQ's throughput tells: rates to show, when others may send images, and a ring that is overrun.

The DAQ says once a second how many images per second came from the detector, and how many were written. That
is a hint; nothing waits for it (wire reference std-daq, sections 5, 7 and 9).
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ...clients.std_daq_redis import StdDaqRedis, StreamEntry
from ...errors import SfdaqError
from ...limits import Limit, counted_time
from ...wire.std_daq import Writing
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
    """A thread that shows the DAQ's stats, None where they are not known, while they are wanted."""

    def __init__(
        self,
        name: str,
        stats: Stats,
        wanted: Callable[[], bool],
        show: Callable[[DaqStats | None], None],
    ):
        self._stats, self._wanted, self._show = stats, wanted, show
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Follow no more. Safe twice."""
        self._closing.set()
        self._thread.join(JOIN)
        self._stats.close()

    def _run(self) -> None:
        while not self._closing.wait(PERIOD):
            if not self._wanted():
                continue
            stats = self._stats()
            if not self._closing.is_set():
                self._show(stats)


class RateInterval(NamedTuple):
    """Images between two moments, s, on the clock of whoever knows; `rate` is the writer's, in images/s."""

    begin: float
    end: float
    sent: float
    written: float
    rate: float


class Stats(ABC):
    """Who knows the DAQ's stats.

    Attributes
    ----------
    entries : deque of Entry
        Seconds that were seen, the newest hundred of them.
    """

    def __init__(self) -> None:
        self.entries: deque[RateInterval] = deque(maxlen=100)

    @abstractmethod
    def __call__(self) -> DaqStats | None:
        """Return the newest; None where nobody knows."""

    @abstractmethod
    def moment(self, start_time: float, elapsed: float) -> float:
        """Return now, on the clock of the entries, `elapsed` s after an acquisition began."""

    def close(self) -> None:
        """Look no more, and forget what was seen. Safe twice."""
        self.entries.clear()

    def _add(self, stats: DaqStats, begin: float, end: float, seconds: float) -> None:
        sent, written = stats.detector_images_per_second, stats.writer_images_per_second
        self.entries.append(RateInterval(begin, end, sent * seconds, written * seconds, written))


class StreamedStats(Stats):
    """All stats out of a Redis follower of "stat", on the DAQ's clock; none once they stop coming."""

    def __init__(self, follower: StdDaqRedis):
        super().__init__()
        self._newest: tuple[DaqStats, float, float] | None = None
        self._follower = follower
        follower.subscribe("stat", self._came)

    def close(self) -> None:
        """Follow no more. Safe twice."""
        self._follower.close()
        super().close()

    def _came(self, message: StreamEntry) -> None:
        try:
            stats = DaqStats.from_dict(message.content)
        except SfdaqError as exc:
            logger.debug("no stats: %s", exc)
            return
        if stats is None:
            return
        end = int(message.entry_id.partition("-")[0]) / 1000
        if self._newest is not None and 0 < (seconds := end - self._newest[1]) <= STALE:
            self._add(stats, self._newest[1], end, seconds)
        self._newest = (stats, end, counted_time())

    def __call__(self) -> DaqStats | None:
        newest = self._newest
        return None if newest is None or counted_time() - newest[2] > STALE else newest[0]

    def moment(self, start_time: float, elapsed: float) -> float:
        """Return now, on the DAQ's clock."""
        return start_time + elapsed


class PolledStats(Stats):
    """Stats the service is asked for: of the last whole second, whenever that was; some are left out."""

    def __init__(self, read: Callable[[], DaqStats | None]):
        super().__init__()
        self._read, self._counted = read, -STALE

    def __call__(self) -> DaqStats | None:
        try:
            stats = self._read()
        except SfdaqError as exc:
            logger.debug("no stats: %s", exc)
            return None
        now = time.monotonic()
        if stats is not None and now - self._counted > LONGEST:
            self._counted = now
            self._add(stats, now - PERIOD - LONGEST, now, PERIOD)
        return stats

    def moment(self, start_time: float, elapsed: float) -> float:
        """Return now, on this process' clock."""
        return time.monotonic()


NO_IMAGES = "the detector sends no images"

RING_SLOTS = 100

PUBLISHED = 0.5
"""s by which the DAQ's count of written images may be late: it follows the published statuses."""


class RingLag:
    """How far the writer was behind the detector in one file, at the least; made before that is started.

    A slot of the ring holds the image of ``image_id % 100`` until the writer comes to write it. Once 100 more
    images came, another one's pixels are there, and neither id nor status in the file tell.

    What is known is how many images came and how many were written in the same seconds: if more came, it was
    behind at their end; if more were written, at their beginning. Only seconds after the first image of the
    file count, for images of before are not its own.

    Attributes
    ----------
    lag : float
        Images, the largest seen; 0 while nothing is known.
    """

    def __init__(self, stats: Callable[[], Stats | None]):
        self._stats, self._begun = stats, time.monotonic()
        self._first: float | None = None
        self._known: tuple[RateInterval, ...] = ()
        self._last = self._ahead = self._least = self._most = self._rate = 0.0
        self.lag = 0.0

    def look(self, writing: Writing) -> float:
        """Take in what was known at the look before, if it still runs; return the lag."""
        stats = self._stats()
        if stats is None or writing.start_time is None or writing.stop_time is not None:
            return self.lag
        known, self._known = self._known, tuple(stats.entries)
        if not writing.n_completed:
            return self.lag
        if self._first is None:
            self._first = stats.moment(writing.start_time, time.monotonic() - self._begun)
        for entry in known:
            if entry.end > self._last and entry.begin >= self._first:
                self._take(entry)
        return self.lag

    def _take(self, entry: RateInterval) -> None:
        if entry.begin != self._last:  # seconds are missing between: from here on again
            self._ahead = self._least = self._most = 0.0
        self._last = entry.end
        self._ahead += entry.sent - entry.written
        self._least, self._most = min(self._least, self._ahead), max(self._most, self._ahead)
        self._rate = max(self._rate, entry.rate)
        self.lag = max(self.lag, self._most - self._least - PUBLISHED * self._rate)


QUIET = 1.0
"""s in which the DAQ's stats must show no image at any look, before none are said to come by themselves."""


@dataclass
class FreeRunning:
    """Whether images come by themselves, in one staging; None while that is not known."""

    known: bool | None = None


class Beginning:
    """Decide when others may send images to a file, and explain why none arrive.

    The service says WRITING at one look at the writer, every 0.1 s; its driver subscribes to the images at a
    look of its own, so up to 0.1 s later, more on a busy host, and nothing tells but the count of the images.

    Parameters
    ----------
    name : str
        Of the device.
    settle_time : float
        s until others may send images where none come by themselves.
    timeout : float
        s without an image after which an explanation is asked for.
    free_running : FreeRunning
        What earlier files of the staging have shown.
    stats : Stats or None
    others_done : callable
        Whether the others have their frames; None if nobody waits for the writer.
    fresh : bool
        Whether the file was just started: one that grew before takes images.
    takes_images_from : str
        The moment from which the DAQ takes images, in the words of its generation.
    """

    def __init__(
        self,
        name: str,
        settle_time: float,
        timeout: float,
        *,
        free_running: FreeRunning,
        stats: Stats | None,
        others_done: Callable[[], bool | None],
        fresh: bool,
        takes_images_from: str,
    ):
        self._name, self._settle, self._timeout = name, Limit(settle_time), timeout
        self._quiet = Limit(QUIET)
        self._free_running, self._fresh = free_running, fresh
        self._stats, self._others_done = stats, others_done
        self._takes_images_from = takes_images_from

    def takes_images(self, writing: Writing) -> bool:
        """Tell whether others may send images now.

        Where images come by themselves, once some arrived; where they come only when others are triggered,
        once `settle_time` is over, on trust.
        """
        if writing.n_requested or writing.n_completed:
            if self._fresh:
                self._free_running.known = True
            return True
        if not self._settle.reached():
            return False
        if self._free_running.known is not False:
            rate = self._rate()
            if rate:
                self._quiet.restart()  # they come and do not arrive, or came until a second ago
            if rate is not None and not self._quiet.reached():
                return False
        self._free_running.known = False
        return True

    def why_silent(self, writing: Writing) -> str:
        """Say why no image arrives, as far as anybody knows."""
        if self._timeout > STALE and (rate := self._rate()):
            return f"the detector sends {rate:.3g} images/s, and the DAQ takes none of them"
        done = self._others_done()
        if done and not self._fresh:
            return "the detectors are done, so images were lost"
        if done is None or not self._fresh or self._free_running.known and not done:
            return NO_IMAGES
        early = (
            f"the DAQ takes images only from {self._takes_images_from}: raise "
            f"{self._name}.settle_time, {self._settle.seconds:g} s"
        )
        if done:
            return f"the detectors are done, so images were lost, most likely the first ones: {early}"
        more = " any more" if writing.n_completed else ""
        return f"{NO_IMAGES}{more}, or sent them too early: {early}"

    def _rate(self) -> float | None:
        """Return images per second of the detector; None where nobody knows."""
        stats = self._stats() if self._stats is not None else None
        return None if stats is None else stats.detector_images_per_second

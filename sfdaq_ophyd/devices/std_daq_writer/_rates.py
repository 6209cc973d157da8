"""Throughput of detector and writer, followed in the background: a hint, never waited for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ...clients.std_daq_redis import StdDaqRedis
from ...errors import SfdaqError
from ...wire.std_daq_config import DaqStats

logger = logging.getLogger(__name__)

PERIOD = 1.0
"""s between two looks: the DAQ's own."""

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
            try:
                stats = self._read()
            except SfdaqError as exc:
                logger.debug("no stats: %s", exc)
                stats = None
            if not self._closing.is_set():
                self._show(stats)


class StreamedStats:
    """Read the newest stats out of a Redis follower; none once they stop coming.

    Parameters
    ----------
    follower : StdDaqRedis
        Follows at least "stat".
    """

    def __init__(self, follower: StdDaqRedis):
        self._follower = follower
        self._last = ("", 0.0)

    def __call__(self) -> DaqStats | None:
        """Return stats; None if there was no new entry for `STALE` s."""
        message = self._follower.latest("stat")
        if message is None:
            return None
        entry_id, since = self._last
        if message.entry_id != entry_id:
            self._last = (message.entry_id, time.monotonic())
        elif time.monotonic() - since > STALE:
            return None
        return DaqStats.from_dict(message.content)

"""What the driver of a standard DAQ with control by websocket (D3) pushes, followed by a thread."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ..errors import ServiceTimeout, ServiceUnreachable, WireError
from ..limits import Limit, counted_time
from ..wire.std_daq_socket import MAX_MESSAGE, PushedState, PushedStatus

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

logger = logging.getLogger(__name__)

SILENT = 5.0
"""s without a push, of ten per s, after which the driver is taken for gone."""

KEPT = 1000
"""Changes of state that are remembered."""


class Pushes:
    """One connection to the driver, and the thread that follows it.

    Attributes
    ----------
    passed_over : str
        Why the last message that is no status is none; empty without such.
    """

    def __init__(self, connection: ClientConnection, news: threading.Event):
        self._open = contextlib.ExitStack()
        self._connection, self._news = self._open.enter_context(connection), news
        self._lock = threading.Lock()
        self._runs: deque[PushedStatus] = deque(maxlen=KEPT)
        self._n_runs, self._last = 0, counted_time()
        self._lost = self.passed_over = ""
        self._thread = threading.Thread(target=self._follow, name="standard DAQ pushes", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> str:
        """Why nothing is pushed any more; empty while something is."""
        with self._lock:
            silent = counted_time() - self._last
        return self._lost or (f"it said nothing for {SILENT:g} s" if silent > SILENT else "")

    def since(self, number: int) -> tuple[list[PushedStatus], int]:
        """Return the statuses from a number on, equal states in one, and the number to go on with."""
        with self._lock:
            first = self._n_runs - len(self._runs)
            return list(self._runs)[max(0, number - first) :], max(number, self._n_runs - 1)

    def next_number(self) -> int:
        """Return the number of the next change of state."""
        with self._lock:
            return self._n_runs

    def send(self, text: str) -> None:
        """Send a command; OSError or EOFError if the connection is gone."""
        from websockets.exceptions import ConnectionClosed

        try:
            self._connection.send(text)
        except ConnectionClosed as exc:
            raise EOFError(str(exc)) from exc

    def close(self) -> None:
        """Close the connection, and wait for the thread."""
        self._open.close()
        self._thread.join(2)

    def _follow(self) -> None:
        try:
            for text in self._connection:
                try:
                    status = PushedStatus.from_text(text)
                except WireError as exc:  # of a later driver; one that only sends such is silent
                    if (why := str(exc)) != self.passed_over:
                        logger.warning("passed over: %s", why)
                    self.passed_over = why
                    continue
                self._take(status)
            self._lost = "the driver closed the connection"
        except Exception as exc:
            self._lost = f"{type(exc).__name__}: {exc}"
            with contextlib.suppress(Exception):
                self._connection.close()
        self._news.set()

    def _take(self, status: PushedStatus) -> None:
        with self._lock:
            self._last = counted_time()
            before = self._runs[-1] if self._runs else None
            if before == status:
                return
            if (
                before is not None
                and before.state is status.state
                and (status.count or 0) >= (before.count or 0)
                and status.state is not PushedState.REJECTED
            ):
                self._runs[-1] = status
            else:
                self._runs.append(status)
                self._n_runs += 1
        self._news.set()


def following(url: str, news: threading.Event, timeout: float, away: Limit | None) -> Pushes:
    """Return a new connection once a first status was pushed, each within `timeout` s.

    Parameters
    ----------
    url : str
    news : Event
        Set when something was pushed, or the connection was lost.
    timeout : float
    away : Limit or None
        While it runs, a driver that is not there is tried again.

    Raises
    ------
    ServiceUnreachable, ServiceTimeout, WireError
    """
    while True:
        try:
            pushes = Pushes(_opened(url, timeout), news)
            break
        except (ServiceUnreachable, WireError):
            if away is None or not away.left:
                raise
        time.sleep(away.step(0.1))
    limit = Limit(timeout)
    while not pushes.next_number():
        if (lost := pushes.lost) or limit.reached():
            pushes.close()
            if lost:
                raise WireError(f"{url} is no standard DAQ: {lost}")
            odd = pushes.passed_over and f"; passed over: {pushes.passed_over}"
            raise ServiceTimeout("first status of the standard DAQ", timeout, f"connected{odd}")
        limit.wait(news, 0.1)
        news.clear()
    return pushes


def _opened(url: str, timeout: float) -> ClientConnection:
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    try:
        return connect(
            url,
            open_timeout=timeout,
            close_timeout=1.0,
            ping_interval=None,
            max_size=MAX_MESSAGE,
            compression=None,
            proxy=None,
        )
    except OSError as exc:
        raise ServiceUnreachable("control of the standard DAQ", url=url, reason=exc) from exc
    except WebSocketException as exc:
        raise WireError(f"{url} is not the control of a standard DAQ: {type(exc).__name__}: {exc}") from exc

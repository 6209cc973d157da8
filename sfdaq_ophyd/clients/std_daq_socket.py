"""Client of the standard DAQ with control by websocket (D3): statuses are pushed, the configuration is REST.

There is no command that asks for the status: a thread follows what is pushed while the connection is open.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlsplit

from ..errors import (
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    SfdaqError,
    UnknownOutcome,
    WireError,
    require,
    shown_url,
)
from ..limits import Limit, asked_again, counted_time
from ..wire.std_daq import MAX_IMAGES
from ..wire.std_daq_config import WEBSOCKET_KEYS, DaqConfig, check_config
from ..wire.std_daq_socket import MAX_MESSAGE, STOP_COMMAND, PushedState, PushedStatus, Tracker
from ._http import Reply, check_url
from .std_daq_service import REST_DIALECTS, StandardDaq, StdDaqRefused, translated

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

logger = logging.getLogger(__name__)

CONTROL_PORT, CONFIG_PORT = 8080, 5000

CREATION_LIMIT = 15.0
"""s for the creation of files: the driver gives up on a missing folder after 5, on a dead writer never."""

STOP_TIMEOUT = 10.0
"""s without a change after which a stop has failed: the files are closed within 1 s."""

AWAY_LIMIT = 3.0
"""s for which a connection that was lost may not be had again, as when something between is restarted."""

SETTLE_LIMIT = 1.0
"""s from the word that an acquisition is over until the driver is idle: the next push tells."""

PERIOD = 0.1
"""s between two looks at what was pushed."""

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
            if before == status and status.state is not PushedState.REJECTED:  # which answers one command
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

    `news` is set whenever something was pushed, and when the connection was lost. While `away` runs, a driver
    that is not there is tried again.
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
        return asked_again(
            lambda: connect(
                url,
                open_timeout=timeout,
                close_timeout=1.0,
                ping_interval=None,
                max_size=MAX_MESSAGE,
                compression=None,
                proxy=None,
            ),
            timeout,
        )
    except OSError as exc:
        raise ServiceUnreachable("control of the standard DAQ", url=url, reason=exc) from exc
    except WebSocketException as exc:
        raise WireError(f"{url} is not the control of a standard DAQ: {type(exc).__name__}: {exc}") from exc


class StdDaqWriterSocket(StandardDaq):
    """One standard DAQ with control by websocket. Contacts nothing until the first call.

    Parameters
    ----------
    url : str
        ``ws://host:8080``, or ``http://host:5000`` of the configuration; the other is at its usual port then.
    config_url : str, optional
        Of the configuration, where that is at another place.
    user : str
        As whom the configuration is read and changed.
    timeout : float
        Limit of a call, s.
    restart_time : float
        Seconds the DAQ's services are away after a change of the configuration.

    Attributes
    ----------
    news : Event
        Set when something new was pushed, or the connection was lost.
    """

    dialect = "websocket"
    restarts_always = False

    def __init__(
        self,
        url: str = f"ws://localhost:{CONTROL_PORT}",
        config_url: str | None = None,
        *,
        user: str = "sfdaq",
        timeout: float = 10.0,
        restart_time: float = 10.0,
    ):
        require("websocket", "control of the standard DAQ by websocket", "websockets")
        with translated():
            self.url, config_url = addresses(url, config_url)
            if not isinstance(user, str) or not user:
                raise RequestError("user", user, "a name as text")
            super().__init__(config_url, timeout=timeout, restart_time=restart_time, keep_alive=True)
        self.config_url = self._http.url
        self._user, self._timeout = user, timeout
        self.news = threading.Event()
        self._lock = threading.Lock()
        self._pushes: Pushes | None = None

    # ---- statuses -----------------------------------------------------------------------------------

    def connect(self) -> Pushes:
        """Return the connection; a new one if there is none, or the last one was lost.

        Returns
        -------
        Pushes
            At least one status was pushed.

        Raises
        ------
        StdDaqUnreachable, StdDaqBadReply
            Nobody answers, or somebody else.
        StdDaqTimeout
            Nothing is pushed.
        """
        with self._lock, translated():
            if self._pushes is not None and not self._pushes.lost:
                return self._pushes
            away = None if self._pushes is None else Limit(AWAY_LIMIT)
            self._drop()
            self._pushes = following(self.url, self.news, self._timeout, away)
            return self._pushes

    def status(self) -> PushedStatus:
        """Return the newest status; connects if that is needed."""
        statuses, _ = self.connect().since(0)
        return statuses[-1]

    def settled_status(self) -> PushedStatus:
        """Return the newest status; where that is the end of an acquisition, the one after it."""
        limit = Limit(SETTLE_LIMIT)
        while (seen := self.status()).is_over and not limit.reached():
            limit.wait(self.news, PERIOD)
            self.news.clear()
        return seen

    def close(self) -> None:
        """Close the connection; what is recorded goes on. Safe twice; the next call opens a new one."""
        with self._lock:
            self._drop()
        self._http.close()

    def _drop(self) -> None:
        pushes, self._pushes = self._pushes, None
        if pushes is not None:
            pushes.close()

    # ---- commands -----------------------------------------------------------------------------------

    def send(self, command: str) -> int:
        """Send a command once; what answers it is pushed.

        Parameters
        ----------
        command : str
            Of `start_command`, or `STOP_COMMAND`: values of a wrong type kill the driver.

        Returns
        -------
        int
            Number of the first status that can answer it, for `Pushes.since`.

        Raises
        ------
        StdDaqUnreachable
            Nothing was sent.
        StdDaqUnknownOutcome
            The connection was lost while it was sent.
        """
        pushes = self.connect()
        number = pushes.next_number()
        with translated():
            try:
                pushes.send(command)
            except (OSError, EOFError) as exc:
                raise UnknownOutcome(
                    "command", url=self.url, reason=exc, hint="Watch the status: it may be carried out."
                ) from exc
        return number

    def stop(self) -> PushedStatus:
        """Stop what is recorded, whosever it is, and return the status once that is over.

        What somebody starts right afterwards is not stopped, even if the driver was idle for a moment only.

        Returns
        -------
        PushedStatus
            Idle, or of what was started since.

        Raises
        ------
        StdDaqTimeout
            It does not come to its end.
        """
        with translated():
            limit, again = Limit(STOP_TIMEOUT), Limit(1.0)
            pushes = self.connect()
            (*_, seen), number = pushes.since(0)
            if seen.is_idle:
                return seen
            self.send(STOP_COMMAND)
            stopped, before = Tracker(MAX_IMAGES), None
            while True:
                if (now := self.connect()) is not pushes:  # what was pushed meanwhile nobody knows
                    pushes, number = now, 0
                statuses, number = pushes.since(number)
                for seen in statuses:
                    if seen.state is not PushedState.REJECTED:  # an answer to whoever asked
                        stopped.see(seen)
                    if seen.is_idle or stopped.ended:
                        return seen
                if seen != before:
                    before = seen
                    limit.restart()
                elif limit.reached():
                    raise ServiceTimeout("stop of the standard DAQ", limit.seconds, str(seen))
                if again.reached():  # one that comes in the wrong moment is forgotten
                    again.restart()
                    self.send(STOP_COMMAND)
                limit.wait(self.news, PERIOD)
                self.news.clear()

    # ---- configuration ------------------------------------------------------------------------------

    def get_config(self) -> dict:
        """Return the stored configuration as it is."""
        with translated():
            reply: Reply = self._http.request(
                "GET", f"/api/config/get?user={quote(self._user)}", idempotent=True
            )
            if "Not Found" in reply.text[:100]:  # as generations with REST answer to an unknown path
                self._refuse_other("GET /api/config/get", REST_DIALECTS)
            return _content(reply, "GET /api/config/get", self.config_url)

    def config(self) -> DaqConfig:
        """Return the stored configuration; numbers it does not say are 0, but those of an image."""
        config = self.get_config()
        unsaid = dict.fromkeys(("n_modules", "start_udp_port", "writer_user_id"), 0)
        with translated():
            found = DaqConfig.from_dict({**unsaid, **config})
        assert found is not None  # only null gives None
        return found

    def _check(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return check_config(changes, WEBSOCKET_KEYS)

    def _config_to_send(self, stored: dict, wanted: dict) -> dict:
        for key in ("detector_name", "detector_type"):
            if key in stored and wanted.get(key, stored[key]) != stored[key]:
                raise RequestError(key, wanted[key], f"{stored[key]}: the service cannot change it")
        return {**stored, **wanted}

    def _why_not_now(self) -> str:
        """Return what should be there instead; empty where the driver is gone, which a change may help."""
        try:
            status = self.status()
        except ServiceUnreachable as exc:
            if os.strerror(errno.ECONNREFUSED) not in exc.reason:  # else nobody is there
                raise
            logger.warning("%s; so nothing is recorded, and the configuration may be changed", exc)
            return ""
        return "" if status.is_idle else f"an idle DAQ; it shows {status}"

    def _send_config(self, body: dict) -> dict:
        hint = "Read the configuration before sending it again."
        path = f"/api/config/set?user={quote(self._user)}"
        reply: Reply = self._http.request("POST", path, payload=body, hint=hint)
        _content(reply, "POST /api/config/set", self.config_url)
        return self.get_config()

    def _stored_all_the_same(self, exc: ServiceRefused | UnknownOutcome) -> NoReturn:
        """Raise: what is read back is the first server's, which stores it before it tells the others."""
        if isinstance(exc, ServiceRefused):
            said = f"{exc.said}; the configuration is changed all the same, not on all servers"
            raise StdDaqRefused(exc.what, url=self.config_url, said=said, code=exc.code) from exc
        hint = "The first server has the change, of the others nobody knows: send it again."
        raise UnknownOutcome(exc.what, url=self.config_url, reason=exc.reason, hint=hint) from exc

    def _why_not_back(self) -> str:
        """Return what the driver does, or why it is not there; empty while it is idle."""
        try:
            return "" if (status := self.status()).is_idle else str(status)
        except SfdaqError as exc:
            return str(exc)

    def __repr__(self):
        return f"StdDaqWriterSocket({self.url!r})"


def addresses(url: str, config_url: str | None) -> tuple[str, str]:
    """Return the addresses of control and configuration, of either; RequestError if they are none."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        scheme, host, port = "", "", None
    host = f"[{host}]" if ":" in host else host
    if scheme in ("http", "https"):
        secure = "s" if scheme == "https" else ""
        return f"ws{secure}://{host}:{CONTROL_PORT}", check_url(config_url or url)
    if scheme not in ("ws", "wss") or not host or parts.username is not None:
        raise RequestError("url", shown_url(url), "an address such as ws://host:8080")
    control = f"{scheme}://{host}:{port or CONTROL_PORT}{parts.path}"
    return control, check_url(config_url or f"http://{host}:{CONFIG_PORT}")


def _content(reply: Reply, what: str, url: str) -> dict[str, Any]:
    """Return the object of a reply; raise what the service has against the request."""
    if reply.code != 200:
        said = reply.text
        with contextlib.suppress(WireError):
            content = reply.json()
            if isinstance(content, Mapping):
                said = str(content.get("detail", said))
        raise StdDaqRefused(what, url=url, said=said, code=reply.code)
    content = reply.json()
    if not isinstance(content, dict):
        raise WireError(f"{what}: {url} sent no object: {reply.text[:200]!r}")
    return content

"""Client of the standard DAQ with control by websocket (D3): statuses are pushed, the configuration is REST.

There is no command that asks for the status: a thread follows what is pushed while the connection is open.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Mapping
from typing import Any
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
)
from ..limits import Limit
from ..wire.std_daq_config import DaqConfig
from ..wire.std_daq_socket import STOP_COMMAND, PushedStatus, check_socket_config
from ._http import HttpClient, Reply, check_url
from .std_daq_config import wait_until_back
from .std_daq_pushes import Pushes, following
from .std_daq_rest import DIALECTS, StdDaqRefused, StdDaqRest, translated

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


class StdDaqWriterSocket:
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
            self._http = HttpClient(config_url, name="configuration of the standard DAQ", timeout=timeout)
        self.config_url = self._http.url
        self._user, self._timeout, self._restart_time = user, timeout, restart_time
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
        """Stop what is recorded, whosever it is, and return the status once the driver is idle.

        Returns
        -------
        PushedStatus

        Raises
        ------
        StdDaqTimeout
            It does not become idle.
        """
        with translated():
            limit, again = Limit(STOP_TIMEOUT), Limit(1.0)
            if self.status().is_idle:
                return self.status()
            self.send(STOP_COMMAND)
            before = None
            while not (seen := self.status()).is_idle:
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
            return seen

    # ---- configuration ------------------------------------------------------------------------------

    def get_config(self) -> dict:
        """Return the stored configuration as it is."""
        with translated():
            reply = self._http.request("GET", f"/api/config/get?user={quote(self._user)}", idempotent=True)
            if "Not Found" in reply.text[:100]:  # as generations with REST answer to an unknown path
                StdDaqRest(self.config_url).refuse_other("GET /api/config/get", DIALECTS)
            return _content(reply, "GET /api/config/get", self.config_url)

    def config(self) -> DaqConfig:
        """Return the stored configuration; numbers it does not say are 0, but those of an image."""
        config = self.get_config()
        unsaid = dict.fromkeys(("n_modules", "start_udp_port", "writer_user_id"), 0)
        with translated():
            found = DaqConfig.from_dict({**unsaid, **config})
        assert found is not None  # only null gives None
        return found

    def set_config(
        self, daq_config: dict, *, wait: bool = True, timeout: float = 60.0, again: bool = False
    ) -> dict:
        """Change the configuration, all of it or only some keys, and wait until the DAQ is back.

        Takes and returns what `StdDaqClient.set_config` does. The whole configuration is sent, or nothing
        where nothing differs; with `again` it is sent then, too, as to a server that missed it before.

        Raises
        ------
        StdDaqRequestError
            A key or a value is wrong, or an acquisition is running; nothing was sent.
        StdDaqRefused
            The service said no; where it stored the change all the same, the text says so.
        StdDaqTimeout
            Stored, but the driver did not come back within `timeout`.
        """
        limit = Limit(timeout)
        with translated():
            if not isinstance(daq_config, Mapping):
                raise RequestError("daq_config", daq_config, "a dictionary")
            stored = self.get_config()
            same = {key: value for key, value in stored.items() if daq_config.get(key, value) == value}
            changes = check_socket_config({k: v for k, v in daq_config.items() if k not in same})
            if not changes and not again:
                return stored
            for key in ("detector_name", "detector_type"):
                if key in changes and key in stored:
                    raise RequestError(key, changes[key], f"{stored[key]}: the service cannot change it")
            if recording := self._recording():
                raise RequestError("daq_config", daq_config, f"an idle DAQ; it shows {recording}")
            wanted = {**stored, **changes}
            self._post(wanted)
            if wait:
                wait_until_back(self._busy, limit, self._restart_time, "stored")
        return wanted

    def _post(self, wanted: dict) -> None:
        what = "POST /api/config/set"
        try:
            reply = self._http.request(
                "POST",
                f"/api/config/set?user={quote(self._user)}",
                payload=wanted,
                hint="Read the configuration before sending it again.",
            )
            _content(reply, what, self.config_url)
        except (ServiceRefused, UnknownOutcome) as exc:
            if self.get_config() != wanted:
                raise
            if isinstance(exc, UnknownOutcome):
                logger.warning("%s; the configuration read back holds the change all the same", exc)
                return
            said = f"{exc.said}; the configuration is changed all the same, not on all servers"
            raise StdDaqRefused(what, url=self.config_url, said=said, code=exc.code) from exc
        if (stored := self.get_config()) != wanted:
            raise StdDaqRefused(
                what, url=self.config_url, said=f"updated, but the configuration stored is {stored}"
            )

    def _recording(self) -> str:
        """Return what the driver does; empty if it is idle, or gone: another configuration may help it."""
        try:
            return "" if (status := self.status()).is_idle else str(status)
        except ServiceUnreachable as exc:
            if os.strerror(errno.ECONNREFUSED) not in exc.reason:  # else nobody is there
                raise
            logger.warning("%s; so nothing is recorded, and the configuration may be changed", exc)
            return ""

    def _busy(self) -> str:
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
        raise RequestError("url", url, "an address such as ws://host:8080")
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

"""SIMPLON, the REST interface of DECTRIS detectors: configure, command, and take images from the monitor.

Source: SIMPLON 1.8 API reference; wire reference eiger, sections 1 to 5.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator

import numpy as np

from ..errors import (
    DetectorStateError,
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    UnknownOutcome,
    WireError,
)
from ..limits import Limit
from ..wire import simplon
from ..wire.simplon import DetectorState, Parameter
from ._http import HttpClient, Reply, check_url
from ._simplon_files import FileFetcher
from ._simplon_images import ImageFetcher, MonitorFrame

logger = logging.getLogger(__name__)

INITIALIZE_TIMEOUT = 240.0
"""s; a 16M takes up to 2 min."""

ARM_TIMEOUT = 120.0
"""s; arming is slow after an energy change."""

TRIGGER_MARGIN = 10.0
"""s a trigger may take beyond its exposure."""

STATE_PERIOD = 0.2
"""s between two looks at the state: much faster than 10 Hz has hung detectors."""

LONGEST_BACKOFF = 2.0

SLOW_PUT_TIMEOUT = 60.0
"""s; an energy change takes about 10 s on a 16M."""

LARGEST_ARRAY = 512 * 2**20
"""Bytes; a 16M mask has 72 MB as TIFF, 97 MB in JSON."""

_FULL_URL = re.compile(r"(.*?)/(?:detector|monitor|stream|filewriter|system)/api/([^/]+)")


class SimplonClient:
    """One detector control unit.

    Contacts nothing until the first call. Safe to use from several threads, which a blocking `trigger` needs.

    Parameters
    ----------
    url : str
        ``http://host[:port]``, or the address of a module such as ``http://host/monitor/api/1.8.0``. The path
        before the module, and ``user:password@``, go with every request.
    api_version : str, optional
        ``"1.8.0"`` or ``"1.6.0"``; taken from `url` if it has one, else asked of the server once.
    timeout : float
        s for ordinary calls and for the transfer of an image.

    Attributes
    ----------
    files : FileFetcher
        The filewriter's files.
    """

    def __init__(self, url: str, api_version: str | None = None, timeout: float = 10.0):
        url = check_url(url)
        match = _FULL_URL.match(url)
        if match is not None:
            url, given = match.groups()
            if api_version not in (None, given):
                raise RequestError("api_version", api_version, f"{given!r}, as in the address")
            api_version = given
        if api_version is not None and api_version not in simplon.VERSIONS:
            raise RequestError("api_version", api_version, f"one of {', '.join(simplon.VERSIONS)}")
        self._version, self.timeout = api_version, timeout
        self._http = HttpClient(url, name="SIMPLON", timeout=timeout)
        self.url = self._http.url
        self._images = ImageFetcher(url, timeout)
        self.files = FileFetcher(url, timeout, lambda: self._uri("filewriter", "files"))

    @property
    def version(self) -> str:
        """The API version, asked of the server if it was not given."""
        if self._version is None:
            self._version = self._asked_version()
        return self._version

    def _asked_version(self, timeout: float | None = None) -> str:
        found = self.discover_version(timeout)
        if found is None:
            raise RequestError(
                "api_version",
                None,
                f"{' or '.join(simplon.VERSIONS)}, given by hand: {self.url} does not know the version "
                "request; or else the address is not that of a detector",
            )
        return found

    def discover_version(self, timeout: float | None = None) -> str | None:
        """Ask the server for its API version; None where it does not know the request.

        Raises
        ------
        RequestError
            It is a version we do not speak.
        """
        for path in ("/detector/api/version", "/detector/api/version/"):
            reply = self._asked("GET", path, missing=True, timeout=timeout)
            if reply.code != 404:
                break
        else:
            return None
        found = Parameter.from_json(reply.json()).value
        if found not in simplon.VERSIONS:
            raise RequestError("api_version", found, f"a server that speaks {' or '.join(simplon.VERSIONS)}")
        return found

    def keys(self, module: str, task: str) -> list[str]:
        """Return the names a module lists; a few more exist."""
        return simplon.parse_keys(self._asked("GET", self._uri(module, task, "keys")).json())

    def get(self, module: str, task: str, name: str, timeout: float | None = None) -> Parameter:
        """Read one parameter of ``config`` or ``status``."""
        return Parameter.from_json(self._asked("GET", self._uri(module, task, name), timeout=timeout).json())

    def get_array(self, name: str) -> np.ndarray:
        """Read ``pixel_mask`` (uint32) or ``flatfield`` (float32) of the detector, shape (y, x)."""

        def read(form: str) -> np.ndarray:
            path, headers = self._uri("detector", "config", name), {"Accept": form}
            limits = {"timeout": SLOW_PUT_TIMEOUT, "max_reply": LARGEST_ARRAY}
            return simplon.parse_array(self._asked("GET", path, False, headers=headers, **limits).body)

        try:
            return read("image/tiff")
        except (ServiceRefused, WireError):
            return read("application/json")  # which is experimental

    def put(self, module: str, name: str, value, *, timeout: float = SLOW_PUT_TIMEOUT) -> list[str]:
        """Set one ``config`` parameter; return the names that changed or may have changed, `name` among them.

        Raises
        ------
        ServiceRefused
            The server does not take the value, or does not know the name; its own words are quoted.
        """
        path = self._uri(module, "config", name)
        reply = self._asked("PUT", path, payload={"value": value}, timeout=timeout)
        return simplon.parse_changed(reply.body, name)

    def command(self, module: str, name: str, argument=None, *, timeout: float | None = None) -> int | None:
        """Send one command, once; return the series number in the reply, if there is one.

        Raises
        ------
        UnknownOutcome
            The reply was lost; the command may have been carried out.
        """
        path = self._uri(module, "command", name)
        return self._http.request(
            "PUT",
            path,
            payload=None if argument is None else {"value": argument},
            headers={"Content-Type": "application/json"},
            timeout=timeout or self.timeout,
            hint=f"Look at {self.url}{self._uri('detector', 'status', 'state')} before sending it again.",
            read=lambda reply: simplon.parse_sequence_id(self._checked("PUT", path, reply).body),
        )

    def probe(self, timeout: float | None = None) -> DetectorState | None:
        """Return the state of the detector that answers; None where only a monitor does.

        Raises
        ------
        RequestError
            The API version must be given by hand.
        ServiceRefused, ServiceUnreachable, ServiceTimeout, WireError
            There is no SIMPLON server of this version at the address.
        """
        if self._version is None:
            self._version = self._asked_version(timeout)
        try:
            return self.state(timeout)
        except ServiceRefused as exc:
            if exc.code != 404:
                raise
        self.get("monitor", "config", "mode", timeout)
        return None

    def state(self, timeout: float | None = None) -> DetectorState:
        """Return the detector's state."""
        value = self.get("detector", "status", "state", timeout).value
        try:
            return DetectorState(value)
        except ValueError:
            raise DetectorStateError(f"{self.url}: unknown detector state {value!r:.100}") from None

    def wait_while(self, states, timeout: float, what: str) -> DetectorState:
        """Wait until the detector is in none of `states`; return the state it is in then.

        Raises
        ------
        ServiceTimeout
            With the last state seen.
        """
        limit = Limit(timeout)
        while (state := self.state()) in states:
            if limit.reached():
                raise ServiceTimeout(f"{what} ({self.url})", timeout, repr(state.value))
            time.sleep(limit.step(STATE_PERIOD))
        return state

    def initialize(self) -> None:
        """Initialize the detector; takes up to 2 min and resets its configuration and series number."""
        self.command("detector", "initialize", timeout=INITIALIZE_TIMEOUT)

    def arm(self) -> int:
        """Open a series and return its number."""
        series_id = self.command("detector", "arm", timeout=ARM_TIMEOUT)
        if series_id is None:
            raise DetectorStateError(f"{self.url}: the reply to arm names no series")
        return series_id

    def trigger(
        self, duration: float = 0.0, count_time: float | None = None, margin: float = TRIGGER_MARGIN
    ) -> None:
        """Send one software trigger and return when its exposure is over.

        Parameters
        ----------
        duration : float
            s its frames take. The server closes a connection open for more than about 5 min though the
            exposure goes on: the rest is then waited for by looking at the state. It is never sent twice.
        count_time : float, optional
            s; only in trigger mode ``inte``, in which the reply may come early: the exposure is waited out.
        margin : float
            s the reply may take beyond `duration`.

        Raises
        ------
        UnknownOutcome
            The reply was lost, and the detector does not look as if it had been triggered.
        """
        started = time.monotonic()
        try:
            self.command("detector", "trigger", count_time, timeout=duration + margin)
        except UnknownOutcome as lost:
            try:
                exposing = self.state() == DetectorState.ACQUIRE  # then it was this trigger
                state = self.wait_while(
                    {DetectorState.ACQUIRE}, duration + margin, "the end of a triggered exposure"
                )
            except ServiceUnreachable as exc:
                raise lost from exc
            exposed = exposing or time.monotonic() - started >= duration
            if state not in (DetectorState.READY, DetectorState.IDLE) or not exposed:
                raise
        if count_time is not None:
            if time.monotonic() - started < count_time:
                time.sleep(count_time)
            self.wait_while({DetectorState.ACQUIRE}, margin, "the end of a triggered exposure")

    def disarm(self) -> None:
        """End the series and keep its data; harmless when no series is open."""
        self.command("detector", "disarm", timeout=ARM_TIMEOUT)

    def abort(self) -> None:
        """End the series at once, dropping what is in flight; harmless when no series is open."""
        self.command("detector", "abort", timeout=ARM_TIMEOUT)

    # ---- monitor

    def next_image(self, wait: float = 0.5) -> MonitorFrame | None:
        """Take the oldest image out of the buffer; None if none came within `wait` s.

        Taking is final, and shared with every other client: a reply lost on the way is a frame lost.
        """
        return self._images.fetch(self._waiting("next", wait), wait)

    def newest_image(self, wait: float = 0.5) -> MonitorFrame | None:
        """Return the image that came last, without taking it: the same one again and again."""
        return self._images.fetch(self._waiting("monitor", wait), wait)

    def image(self, series_id: int, image_id: int) -> MonitorFrame | None:
        """Return one image of the buffer, without taking it; None if it is not there."""
        try:
            return self._images.fetch(self._uri("monitor", "images", f"{series_id}/{image_id}"))
        except ServiceRefused as exc:
            if exc.code == 404:
                return None
            raise

    def image_list(self) -> list[tuple[int, int]]:
        """Return (series_id, image_id) of every image in the buffer."""
        return simplon.parse_image_list(self._asked("GET", self._uri("monitor", "images")).json())

    def images(
        self, stop: threading.Event, wait: float = 0.5, give_up_after: float = 20.0
    ) -> Iterator[MonitorFrame | None]:
        """Yield images as they come, and None each time the server had none, until `stop` is set.

        A server that does not answer, or says that it is away (5xx), is tried again with growing pauses, for
        `give_up_after` s at the most; what is read at last is raised.
        """
        pause, lost = 0.1, None
        while not stop.is_set():
            try:
                frame = self.next_image(wait)
            except (ServiceUnreachable, ServiceTimeout, ServiceRefused) as exc:
                if stop.is_set():
                    return
                lost = lost or Limit(give_up_after)
                if lost.reached() or (isinstance(exc, ServiceRefused) and (exc.code or 0) < 500):
                    raise
                logger.warning("%s; trying again in %g s", exc, pause)
                stop.wait(lost.step(pause))
                pause = min(2 * pause, LONGEST_BACKOFF)
                continue
            pause, lost = 0.1, None
            yield frame

    def last_taken(self) -> tuple[int, int]:
        """Return (series_id, image_id) of the image `next_image` gave last; API 1.6 only."""
        value = self.get("monitor", "status", "next_image_number").value
        if not isinstance(value, list) or [type(n) for n in value[:2]] != [int, int]:
            raise DetectorStateError(
                f"{self.url}: next_image_number is {value!r:.100}, expected [series, image]"
            )
        return value[0], value[1]

    def clear_monitor(self) -> None:
        """Empty the monitor's buffer and its counters."""
        self.command("monitor", "clear")

    def interrupt(self) -> None:
        """Break off image and file requests under way, for a thread that wants another to stop waiting."""
        self._images.interrupt()
        self.files.interrupt()

    def wait_out_images(self) -> None:
        """Return once the server waits no more for an image on behalf of a request that was broken off.

        It would take the image, and give it to nobody. Returns at once where there was no such request.
        """
        self._images.wait_out()

    def close(self) -> None:
        """Close the connections. Safe twice; the next call opens new ones."""
        self._http.close()
        self._images.close()
        self.files.close()

    def _waiting(self, which: str, wait: float) -> str:
        return self._uri("monitor", "images", f"{which}?timeout={round(wait * 1000)}")

    def _uri(self, module: str, task: str, name: str = "") -> str:
        return simplon.uri(module, task, name, version=self.version)

    def _asked(self, method: str, path: str, missing: bool = False, **options) -> Reply:
        reply = self._http.request(method, path, idempotent=True, attempts=2, **options)
        return reply if missing and reply.code == 404 else self._checked(method, path, reply)

    def _checked(self, method: str, path: str, reply: Reply) -> Reply:
        if reply.code not in (200, 204):
            raise ServiceRefused(f"{method} {path}", url=self.url, said=reply.text, code=reply.code)
        return reply

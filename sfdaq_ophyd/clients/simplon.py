"""SIMPLON, the REST interface of DECTRIS detectors: configure, command, and take images from the monitor.

Source: SIMPLON 1.8 API reference; wire reference eiger, sections 1 to 5.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Container, Iterator

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

        Parameters
        ----------
        timeout : float, optional
            Limit of each request, s; that of the client unless given.

        Returns
        -------
        str or None
            ``"1.8.0"`` or ``"1.6.0"``. Some simulators do not know the request, and neither does a server
            that is no detector.

        Raises
        ------
        RequestError
            It is a version we do not speak.
        ServiceRefused, ServiceUnreachable, ServiceTimeout, WireError
            There is no SIMPLON server at the address, or it does not answer.

        Notes
        -----
        See wire reference eiger, section 1.
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
        """Return the names a module lists; a few more exist.

        Parameters
        ----------
        module : str
            ``"detector"``, ``"monitor"``, ``"filewriter"``, ``"stream"`` or ``"system"``.
        task : str
            ``"config"``, ``"status"`` or ``"command"``.

        Raises
        ------
        RequestError
            There is no such module, or the API version must be given by hand.
        ServiceRefused
            The server does not have the list; its own words are quoted.
        ServiceUnreachable, ServiceTimeout, WireError
            There was no reply, none in time, or none that is a list of names.

        Notes
        -----
        See wire reference eiger, section 1.
        """
        return simplon.parse_keys(self._asked("GET", self._uri(module, task, "keys")).json())

    def get(self, module: str, task: str, name: str, timeout: float | None = None) -> Parameter:
        """Read one parameter of ``config`` or ``status``.

        Parameters
        ----------
        module : str
            ``"detector"``, ``"monitor"``, ``"filewriter"``, ``"stream"`` or ``"system"``.
        task : str
            ``"config"`` or ``"status"``.
        name : str
            May hold slashes, as in ``"threshold/1/energy"``.
        timeout : float, optional
            Limit of the call, s; that of the client unless given.

        Returns
        -------
        Parameter
            With the value in the vendor's unit, and whatever the server says of its type and its limits.

        Raises
        ------
        RequestError
            There is no such module, or the API version must be given by hand.
        ServiceRefused
            The server does not know the parameter; before `initialize` it may know none of ``config``. Its
            own words are quoted.
        ServiceUnreachable, ServiceTimeout, WireError
            There was no reply, none in time, or none that is a parameter.

        Notes
        -----
        See wire reference eiger, sections 3.1 and 4.
        """
        return Parameter.from_json(self._asked("GET", self._uri(module, task, name), timeout=timeout).json())

    def get_array(self, name: str) -> np.ndarray:
        """Read ``pixel_mask`` (uint32) or ``flatfield`` (float32) of the detector, shape (y, x).

        Parameters
        ----------
        name : str
            ``"pixel_mask"``, ``"flatfield"``, or that of one threshold, as in ``"threshold/1/pixel_mask"``.

        Returns
        -------
        ndarray of uint32 or float32, shape (y, x)
            Empty where the server has none. It is asked for as TIFF and, where that is refused or makes no
            sense, as JSON.

        Raises
        ------
        ServiceRefused, WireError
            The server gives no array in either form.
        ServiceUnreachable, ServiceTimeout
            There was no reply, or no whole one within 60 s.

        Notes
        -----
        See wire reference eiger, section 3.1.
        """

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

        Parameters
        ----------
        module : str
            ``"detector"``, ``"monitor"``, ``"filewriter"``, ``"stream"`` or ``"system"``.
        name : str
            May hold slashes, as in ``"threshold/1/energy"``.
        value : bool, int, float, str or list
            In the vendor's unit, of the type that the server wants; it is not checked here.
        timeout : float
            Limit of the call, s: a change of the energy takes about 10 s on a 16M.

        Returns
        -------
        list of str
            Parameters of the same module that are to be read again.

        Raises
        ------
        RequestError
            There is no such module, the value is no JSON, such as NaN, or the API version must be given by
            hand; nothing was sent.
        ServiceRefused
            The server does not take the value, or does not know the name; its own words are quoted.
        ServiceUnreachable, ServiceTimeout, WireError
            There was no reply, none in time, or none that makes sense. It may have been sent twice, which is
            harmless, and the value may be set: read it back.

        Notes
        -----
        See wire reference eiger, section 3.2.
        """
        path = self._uri(module, "config", name)
        reply = self._asked("PUT", path, payload={"value": value}, timeout=timeout)
        return simplon.parse_changed(reply.body, name)

    def command(self, module: str, name: str, argument=None, *, timeout: float | None = None) -> int | None:
        """Send one command, once; return the series number in the reply, if there is one.

        Parameters
        ----------
        module : str
            ``"detector"``, ``"monitor"``, ``"filewriter"``, ``"stream"`` or ``"system"``.
        name : str
            E.g. ``"arm"``; names and states are in `wire.simplon.COMMANDS`.
        argument : float, optional
            Only of the few commands that take one: s of exposure for ``trigger`` in the mode ``inte``. Any
            other command is refused with an argument.
        timeout : float, optional
            Limit of the call, s; that of the client unless given. The reply comes when the command is done.

        Returns
        -------
        int or None
            The number of the series, which images and files have too.

        Raises
        ------
        RequestError
            There is no such module, the argument is no JSON, or the API version must be given by hand;
            nothing was sent.
        ServiceRefused
            The server does not know the command, or the state does not allow it; its own words are quoted.
        ServiceUnreachable
            The command was not sent.
        UnknownOutcome
            The reply was lost; the command may have been carried out.

        Notes
        -----
        See wire reference eiger, section 4.3.
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

        Parameters
        ----------
        timeout : float, optional
            Limit of each request, s; that of the client unless given.

        Raises
        ------
        RequestError
            The API version must be given by hand.
        ServiceRefused, ServiceUnreachable, ServiceTimeout, WireError
            There is no SIMPLON server of this version at the address.
        DetectorStateError
            The detector is in a state that we do not know.
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
        """Return the detector's state.

        Parameters
        ----------
        timeout : float, optional
            Limit of the call, s; that of the client unless given.

        Raises
        ------
        DetectorStateError
            The server names a state that we do not know.
        ServiceRefused, ServiceUnreachable, ServiceTimeout, WireError
            The state could not be read, as of `get`.

        Notes
        -----
        See wire reference eiger, section 4.3.
        """
        value = self.get("detector", "status", "state", timeout).value
        try:
            return DetectorState(value)
        except ValueError:
            raise DetectorStateError(f"{self.url}: unknown detector state {value!r:.100}") from None

    def update_status(self) -> None:
        """Have temperature and humidity measured anew where that is to be asked for: API 1.6, detector idle.

        Raises
        ------
        DetectorStateError, ServiceRefused, ServiceUnreachable, ServiceTimeout, WireError, UnknownOutcome
            The state could not be read, as of `state`, or the command not be sent, as of `command`.

        Notes
        -----
        See wire reference eiger, section 4.2.
        """
        if self.version == "1.6.0" and self.state() == DetectorState.IDLE:
            self.command("detector", "status_update")

    def wait_while(self, states: Container[DetectorState], timeout: float, what: str) -> DetectorState:
        """Wait until the detector is in none of `states`; return the state it is in then.

        Parameters
        ----------
        states : container of DetectorState
            Those that are waited out, e.g. ``{DetectorState.ACQUIRE}``.
        timeout : float
            Longest wait, s; the state is looked at five times a second.
        what : str
            What is waited for, for the message of the timeout.

        Raises
        ------
        ServiceTimeout
            With the last state seen.
        DetectorStateError, ServiceRefused, ServiceUnreachable, WireError
            The state could not be read, as of `state`.
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

        Parameters
        ----------
        wait : float
            How long the server waits for an image, s. Its transfer may take the client's `timeout` beyond
            that.

        Returns
        -------
        MonitorFrame or None
            `image` is uint8, uint16 or uint32, shape (y, x), and nobody else uses its memory.

        Raises
        ------
        WireError
            The body is not the TIFF of an image, is cut short, or larger than 256 MiB. The frame is lost.
        ServiceUnreachable, ServiceTimeout
            There was no reply, or `interrupt` broke it off. It is not asked again, and a frame may be lost.
        ServiceRefused
            The server answered with another code than those for "no image"; its own words are quoted.

        Notes
        -----
        See wire reference eiger, sections 5.2 and 6.
        """
        return self._images.fetch(self._waiting("next", wait), wait)

    def newest_image(self, wait: float = 0.5) -> MonitorFrame | None:
        """Return the image that came last, without taking it: the same one again and again.

        Parameters
        ----------
        wait : float
            How long the server waits for a first image, s.

        Returns
        -------
        MonitorFrame or None
            As of `next_image`; None if there was no image at all within `wait` s.

        Raises
        ------
        WireError, ServiceUnreachable, ServiceTimeout, ServiceRefused
            As of `next_image`, but no frame is lost.

        Notes
        -----
        See wire reference eiger, section 5.2.
        """
        return self._images.fetch(self._waiting("monitor", wait), wait)

    def image(self, series_id: int, image_id: int) -> MonitorFrame | None:
        """Return one image of the buffer, without taking it; None if it is not there.

        Parameters
        ----------
        series_id, image_id : int
            As in `image_list`.

        Returns
        -------
        MonitorFrame or None
            As of `next_image`.

        Raises
        ------
        WireError, ServiceUnreachable, ServiceTimeout, ServiceRefused
            As of `next_image`, but no frame is lost.

        Notes
        -----
        See wire reference eiger, section 5.2.
        """
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

        Parameters
        ----------
        stop : threading.Event
            Ends it, once the request under way is over; `interrupt` breaks that off.
        wait : float
            How long the server waits for each image, s.
        give_up_after : float
            How long a server may be away without a break, s.

        Yields
        ------
        MonitorFrame or None
            As of `next_image`: images are taken.

        Raises
        ------
        ServiceUnreachable, ServiceTimeout
            The server was away for `give_up_after` s.
        ServiceRefused
            It said no with a code below 500; or it has said 5xx for `give_up_after` s.
        WireError
            A body was no image, as of `next_image`; at once.
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

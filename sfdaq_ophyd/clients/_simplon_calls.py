"""The calls that SIMPLON is made of: parameters of a module are read and set, commands are sent once."""

from __future__ import annotations

import re

import numpy as np

from ..errors import RequestError, ServiceRefused, WireError
from ..wire import simplon
from ..wire.simplon import Parameter
from ._http import HttpClient, Reply, check_url

SLOW_PUT_TIMEOUT = 60.0
"""s; an energy change takes about 10 s on a 16M."""

LARGEST_ARRAY = 512 * 2**20
"""Bytes; a 16M mask has 72 MB as TIFF, 97 MB in JSON."""

_FULL_URL = re.compile(r"(.*?)/(?:detector|monitor|stream|filewriter|system)/api/([^/]+)")


class SimplonCalls:
    """Parameters and commands of one detector control unit; see `SimplonClient`."""

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
        self._address, self.url = url, self._http.url

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

    def _uri(self, module: str, task: str, name: str = "") -> str:
        return simplon.uri(module, task, name, version=self.version)

    def _asked(self, method: str, path: str, missing: bool = False, **options) -> Reply:
        reply = self._request(method, path, **options)
        return reply if missing and reply.code == 404 else self._checked(method, path, reply)

    def _request(self, method: str, path: str, **options) -> Reply:
        return self._http.request(method, path, idempotent=True, attempts=2, **options)

    def _checked(self, method: str, path: str, reply: Reply) -> Reply:
        if reply.code not in (200, 204):
            raise ServiceRefused(f"{method} {path}", url=self.url, said=reply.text, code=reply.code)
        return reply

"""The envelope of the standard DAQ's REST service: both dialects, their errors, telling them apart."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..errors import RequestError, WireError
from ._http import HttpService, Reply
from .std_daq_errors import StdDaqInvalid, StdDaqRefused, translated

DIALECTS = ("flask", "fastapi")
"""D1 and D2 of the contract."""

START_TIMEOUT = 6.0
"""Least limit of a start or stop, s: the service itself may take 5.1 s."""

SYNC_TIMEOUT = 70.0
"""Limit of write_sync, s: the service gives up after 60 s."""


class StdDaqRest:
    """GET and POST with the service's two ways of saying no turned into exceptions.

    Each request has its own connection: one dialect closes it after a reply with an error without saying so.

    Parameters
    ----------
    url : str
        Base address.
    dialect : {"auto", "flask", "fastapi"}
        "auto" asks once, when it matters.
    timeout : float
        Limit of a call, s.
    """

    def __init__(self, url: str, *, dialect: str = "auto", timeout: float = 10.0):
        if dialect not in ("auto", *DIALECTS):
            raise RequestError("dialect", dialect, f"'auto' or one of {DIALECTS}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 3600:
            raise RequestError("timeout", timeout, "seconds above 0 and below 3600")
        self._http = HttpService(url, name="standard DAQ", timeout=timeout, keep_alive=False)
        self._dialect = None if dialect == "auto" else dialect

    @property
    def url(self) -> str:
        """Base address, without a trailing slash."""
        return self._http.url

    def get(self, path: str, key: str, *, attempts: int = 3) -> Any:
        """Return `key` of the reply to a GET; repeated when it is lost."""
        return self.get_all(path, key, attempts=attempts)[key]

    def get_all(self, path: str, key: str, *, attempts: int = 3) -> dict:
        """Return the whole reply, in which `key` is, to a GET."""
        read = partial(self._envelope, f"GET {path}", key)
        with translated():
            return self._http.request("GET", path, idempotent=True, attempts=attempts, read=read)

    def post(self, path: str, body: object, key: str, *, timeout: float | None = None, hint: str) -> Any:
        """Return `key` of the reply to a POST; never repeated once it may have been carried out."""
        read = partial(self._envelope, f"POST {path}", key)
        with translated():
            return self._http.request("POST", path, payload=body, timeout=timeout, hint=hint, read=read)[key]

    def start_timeout(self) -> float:
        """Limit of a start or stop, s."""
        return max(self._http.timeout, START_TIMEOUT)

    def dialect(self) -> str:
        """Return "flask" or "fastapi", asking the service once, without side effects.

        Raises
        ------
        StdDaqBadReply
            The service is something else; the message says what, where it is known.
        """
        if self._dialect is None:
            with translated():
                reply = self._http.request("GET", "/openapi.json", idempotent=True)
                self._dialect = _dialect_of(reply, self.url)
        return self._dialect

    def _envelope(self, what: str, key: str, reply: Reply) -> dict:
        if reply.code == 200:
            content = reply.json()
            if not isinstance(content, dict) or "status" not in content:
                raise WireError(f"{what}: {self.url} sent no envelope with a status: {reply.text[:200]!r}")
            if content["status"] == "ok":
                if key not in content:
                    raise WireError(f"{what}: {self.url} sent no {key!r}: {reply.text[:200]!r}")
                return content
            raise StdDaqRefused(what, url=self.url, said=str(content.get("message", "no message")))
        if reply.code == 422 and reply.content_type == "application/json":
            content = reply.json()
            detail = content.get("detail", content) if isinstance(content, dict) else content
            raise StdDaqInvalid(what, url=self.url, detail=detail)
        raise StdDaqRefused(what, url=self.url, said=reply.text, code=reply.code)

    def close(self) -> None:
        """Close the session. Safe twice."""
        self._http.close()


def _dialect_of(reply: Reply, url: str) -> str:
    try:
        content = reply.json()
    except WireError:
        content = None
    if isinstance(content, dict):
        paths = content.get("paths") if "openapi" in content else None
        if isinstance(paths, dict):
            if "/writer/status" in paths:
                return "fastapi"
            if any(str(path).startswith("/api/config") for path in paths):
                raise WireError(
                    f"{url} is the configuration service of a DAQ with websocket control; its writers are "
                    "started by websocket, which this client does not speak"
                )
        if reply.code == 200 and str(content.get("message", "")).startswith("404 Not Found"):
            return "flask"
    raise WireError(f"{url} is not a standard DAQ: GET /openapi.json gave {reply.code} {reply.text[:200]!r}")

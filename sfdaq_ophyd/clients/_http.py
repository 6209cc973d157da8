"""The one place with HTTP timeouts, repeats and the translation of transport errors."""

from __future__ import annotations

import json
import time
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import NameResolutionError, NewConnectionError

from ..errors import RequestError, ServiceTimeout, ServiceUnreachable, UnknownOutcome, WireError

CONNECT_TIMEOUT = 2.0
"""Seconds to open a connection."""

MAX_REPLY = 64 * 2**20
"""Largest body of a JSON reply, bytes."""


def check_url(url: str, *, default_port: int | None = None) -> str:
    """Return `url` as ``http://host[:port]`` plus path, without a trailing slash; RequestError otherwise."""
    if not isinstance(url, str) or not url:
        raise RequestError("url", url, "an address such as http://host:port")
    parts = urlsplit(url if "//" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise RequestError("url", url, "an address such as http://host:port")
    netloc = parts.netloc if port or default_port is None else f"{parts.netloc}:{default_port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


class Reply:
    """Status code, content type and body of one HTTP reply, read whole.

    Attributes
    ----------
    code : int
    content_type : str
        Without parameters, lower case.
    body : bytes
    headers : Mapping
        Case-insensitive.
    """

    def __init__(self, response: requests.Response, body: bytes):
        self.code = response.status_code
        self.headers = response.headers
        self.content_type = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
        self.body = body

    @property
    def text(self) -> str:
        """The body as text, undecodable bytes replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self):
        """Parse the body; WireError if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError as exc:
            raise WireError(f"not JSON: {self.text[:200]!r}") from exc


class HttpService:
    """One HTTP service: one session, a timeout on every call, errors of ours.

    Contacts nothing until the first request. Safe to use from several threads.

    Parameters
    ----------
    url : str
        Base address.
    name : str
        Used in messages, e.g. ``"sf-daq broker"``.
    timeout : float
        Default limit of a call in s, from the request to the last byte of the reply's header; each
        further read has the same limit.
    keep_alive : bool
        False closes the connection after each reply.
    """

    def __init__(self, url: str, *, name: str, timeout: float = 10.0, keep_alive: bool = True):
        self.url = check_url(url)
        self.name = name
        self.timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy set for the web must not take the DAQ's traffic
        if not keep_alive:
            self._session.headers["Connection"] = "close"

    def request(
        self,
        method: str,
        path: str,
        *,
        payload=None,
        data: bytes | None = None,
        headers: dict | None = None,
        params: dict | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        attempts: int = 3,
        backoff: float = 0.2,
        hint: str = "",
        max_reply: int = MAX_REPLY,
    ) -> Reply:
        """Send one request and return its reply, whatever the status code.

        Parameters
        ----------
        payload : object, optional
            Sent as JSON, also with GET. NaN is refused.
        data : bytes, optional
            Sent as it is, in place of `payload`.
        idempotent : bool
            May be sent again after a lost reply. A request that never left (connection refused,
            unknown host) is always repeated, with back-off.
        attempts : int
            How often at the most.
        hint : str
            Ends the message of UnknownOutcome.
        max_reply : int
            Largest body accepted, bytes.

        Raises
        ------
        ServiceUnreachable, ServiceTimeout, UnknownOutcome, WireError
        """
        what = f"{self.name}: {method} {path}"
        timeout = self.timeout if timeout is None else timeout
        headers = dict(headers or {})
        if payload is not None:
            try:
                data = json.dumps(payload, allow_nan=False).encode()
            except (TypeError, ValueError) as exc:
                raise RequestError("request body", payload, f"plain JSON values ({exc})") from exc
            headers.setdefault("Content-Type", "application/json")
        for attempt in range(1, attempts + 1):
            last = attempt == attempts
            try:
                return self._once(method, path, data, headers, params, timeout, max_reply, what)
            except requests.exceptions.ConnectTimeout as exc:
                failure = ServiceUnreachable(what, url=self.url, reason="connection timed out")
                cause, repeat = exc, True
            except requests.exceptions.Timeout as exc:
                cause, repeat = exc, idempotent
                failure = (
                    ServiceTimeout(what, timeout, f"no reply from {self.url}")
                    if idempotent
                    else UnknownOutcome(what, url=self.url, reason=f"none within {timeout:g} s", hint=hint)
                )
            except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as exc:
                cause = exc
                if _never_sent(exc):
                    failure = ServiceUnreachable(what, url=self.url, reason=_reason(exc))
                    repeat = True
                else:
                    repeat = idempotent
                    failure = (
                        ServiceUnreachable(what, url=self.url, reason=_reason(exc))
                        if idempotent
                        else UnknownOutcome(what, url=self.url, reason=_reason(exc), hint=hint)
                    )
            if last or not repeat:
                raise failure from cause
            time.sleep(backoff * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _once(self, method, path, data, headers, params, timeout, max_reply, what) -> Reply:
        with self._session.request(
            method,
            self.url + path,
            data=data,
            headers=headers,
            params=params,
            timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
            stream=True,
            allow_redirects=False,
        ) as response:
            body = bytearray()
            deadline = time.monotonic() + timeout
            for chunk in response.iter_content(65536):
                body += chunk
                if len(body) > max_reply:
                    raise WireError(f"{what}: reply of {self.url} exceeds {max_reply} bytes")
                if time.monotonic() > deadline:
                    raise requests.exceptions.ReadTimeout("reply too slow")
            return Reply(response, bytes(body))

    def close(self) -> None:
        """Close the connections. Safe twice; the next request opens new ones."""
        self._session.close()


def _root(exc: BaseException) -> BaseException:
    reason = exc.args[0] if exc.args else exc
    return getattr(reason, "reason", reason) if isinstance(reason, BaseException) else exc


def _never_sent(exc: BaseException) -> bool:
    return isinstance(_root(exc), NewConnectionError | NameResolutionError)


def _reason(exc: BaseException) -> str:
    text = str(_root(exc))
    return text.split("object at 0x")[-1].split(": ", 1)[-1] if "object at 0x" in text else text

"""The one place with HTTP timeouts, repeats and the translation of transport errors."""

from __future__ import annotations

import base64
import http.client
import json
import time
import zlib
from collections.abc import Callable, Mapping
from http.client import HTTPMessage, HTTPResponse
from typing import NamedTuple, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from ..errors import (
    RequestError,
    ServiceTimeout,
    ServiceUnreachable,
    SfdaqError,
    UnknownOutcome,
    WireError,
    shown_url,
)
from ..wire.json_text import load_json
from ._http_call import Call, Connections, NotConnected

Value = TypeVar("Value")

MAX_REPLY = 64 * 2**20
"""Largest body of a JSON reply, bytes."""

MAX_REDIRECTS = 3

PIECE = 2**20
"""Bytes at the most of a piece of a body that is taken piece by piece, or whose length is not told."""

AWAY = (502, 503, 504)
"""Codes of a gateway, or of a server that is busy: nobody looked at the request."""

_REDIRECTS, _SAME_METHOD = (301, 302, 303, 307, 308), (307, 308)
_SAFE = "!$%&'()*+,/:;=?@[]~"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_url(url: str) -> str:
    """Return `url` as ``http://host[:port]`` plus path, without a trailing slash; RequestError otherwise."""
    try:
        if not isinstance(url, str):
            raise ValueError
        parts = urlsplit(url if "//" in url else f"http://{url}")
        _ = parts.port  # a number, or this raises
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError
    except ValueError:
        raise RequestError("url", shown_url(url), "an address such as http://host:port") from None
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


class CutShort(ConnectionError):
    """The connection ended before the body did."""


class Head(NamedTuple):
    """Status code and headers of a reply; names of headers are case-insensitive."""

    status_code: int
    headers: HTTPMessage


Receive = Callable[[Head], Callable[[memoryview], object] | None]
"""Given the head of a reply, returns what takes its body piece by piece; None has it read as usual."""


class Reply:
    """Status code, content type and body of one HTTP reply, read whole.

    Attributes
    ----------
    code : int
    content_type : str
        Without parameters, lower case.
    content : memoryview
        The body.
    headers : Mapping
        Case-insensitive.
    """

    def __init__(self, head: Head, content: memoryview):
        self.code, self.headers, self.content = head.status_code, head.headers, content
        self.content_type = head.headers.get("Content-Type", "").split(";")[0].strip().lower()

    @property
    def body(self) -> bytes:
        """The body as bytes."""
        return bytes(self.content)

    @property
    def text(self) -> str:
        """The body as text, undecodable bytes replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self):
        """Parse the body; WireError if it is not JSON, or nested too deep."""
        return load_json(self.body)


def _as_it_is(reply: Reply) -> Reply:
    return reply


class HttpClient:
    """One HTTP service: connections that are used again, one total limit on every call, errors of ours.

    Contacts nothing until the first request. Safe to use from several threads.

    Parameters
    ----------
    url : str
        Base address; its path stands before the path of every request, and ``user:password@`` becomes
        basic authentication of every request.
    name : str
        Used in messages, e.g. ``"sf-daq broker"``.
    timeout : float
        Default limit of a call in s, from the look-up of the host to the last byte of the reply, with all
        repeats and redirects.
    keep_alive : bool
        False closes the connection after each reply.

    Attributes
    ----------
    url : str
        The address without user and password, fit to be shown.
    """

    def __init__(self, url: str, *, name: str, timeout: float = 10.0, keep_alive: bool = True):
        parts = urlsplit(check_url(url))
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 3600:
            raise RequestError("timeout", timeout, "seconds above 0 and below 3600")
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self.name = name
        self.timeout = timeout
        self._headers: dict[str, str] = {}
        if parts.username or parts.password:
            login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        try:
            name = parts.netloc.rpartition("@")[2].encode("idna").decode("ascii")
        except UnicodeError:
            raise RequestError("url", self.url, "an address such as http://host:port") from None
        tls = parts.scheme == "https"
        assert parts.hostname is not None  # or check_url had refused it
        self._connections = Connections(parts.hostname, port, name, tls=tls, keep=keep_alive)
        self._calls: set[Call] = set()

    def request(
        self,
        method: str,
        path: str,
        *,
        payload=None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        attempts: int = 3,
        backoff: float = 0.2,
        hint: str = "",
        max_reply: int = MAX_REPLY,
        take: Callable[[int], memoryview] | None = None,
        receive: Receive | None = None,
        read: Callable[[Reply], Value] = _as_it_is,  # type: ignore[assignment] # then `Value` is Reply
    ) -> Value:
        """Send one request and return its reply, whatever the status code.

        Parameters
        ----------
        payload : object, optional
            Sent as JSON, also with GET. NaN is refused.
        data : bytes, optional
            Sent as it is, in place of `payload`.
        timeout : float, optional
            Limit of the whole call, s.
        idempotent : bool
            May be sent again after a lost reply, or after a gateway's word that the server is away. A
            request that never left (connection refused, unknown host) is always repeated, with back-off.
        attempts : int
            How often at the most, within the limit.
        hint : str
            Ends the message of UnknownOutcome.
        max_reply : int
            Largest body accepted, bytes.
        take : callable, optional
            Returns a buffer of so many bytes for the body of status 200.
        receive : callable, optional
            Given code and headers of a reply, returns what takes its body piece by piece, of any size: then
            `timeout` is for each piece. What either raises ends the call as a lost reply does, and is the
            cause of its error. None: the body is read whole.
        read : callable, optional
            Makes of the `Reply` what is returned; its WireError counts as a reply that was lost.

        Raises
        ------
        ServiceUnreachable
            Nothing was sent; or, to an idempotent call, no reply came.
        ServiceTimeout, WireError
            An idempotent call had no reply within its limit, or none that makes sense.
        UnknownOutcome
            Anything that goes wrong with another call once its first byte was sent.
        """
        what = f"{self.name}: {method} {path}"
        timeout = self.timeout if timeout is None else timeout
        headers = {**self._headers, **(headers or {})}
        if payload is not None:
            try:
                data = json.dumps(payload, allow_nan=False).encode()
            except (TypeError, ValueError, RecursionError) as exc:
                raise RequestError("request body", payload, f"plain JSON values ({exc})") from exc
            headers.setdefault("Content-Type", "application/json")
        call = Call(timeout)

        def read_body(response: HTTPResponse) -> Reply:
            head = Head(response.status, response.headers)
            into = None if receive is None else receive(head)
            content = _content(response, max_reply, take) if into is None else _pass_on(response, into, call)
            return Reply(head, content)

        self._calls.add(call)
        outcome: Reply | Exception | None = None
        try:
            for pause in (*(backoff * 2**k for k in range(attempts - 1)), None):
                try:
                    outcome = self._exchange(call, method, path, headers, data, read_body)
                except Exception as exc:
                    outcome = exc
                if not _again(outcome, idempotent) or pause is None or call.limit.left <= pause:
                    break
                time.sleep(pause)
            if isinstance(outcome, Exception):
                raise self._failure(outcome, call, what, idempotent, hint) from outcome
            assert outcome is not None  # it was tried once at least
            return read(outcome)
        except WireError as exc:
            if idempotent:
                raise
            raise UnknownOutcome(what, url=self.url, reason=exc, hint=hint) from exc
        finally:
            outcome = None  # else an error and this frame keep each other alive
            self._calls.discard(call)
            call.close()

    def interrupt(self) -> None:
        """Break off the calls under way: they raise at once."""
        for call in tuple(self._calls):
            call.end("broken off")

    def close(self) -> None:
        """Close the connections not in use. Safe twice; the next request opens new ones."""
        self._connections.close()

    def _exchange(self, call: Call, method: str, path: str, headers, data, read_body) -> Reply:
        """Send a request, and again to where the server says on itself; nothing goes to another server."""
        address = f"{self.url}{path}"
        for _ in range(MAX_REDIRECTS + 1):
            parts = urlsplit(address)
            target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_SAFE)
            reply = self._connections.exchange(call, method, target, headers, data, read_body)
            if reply.code not in (_REDIRECTS if method == "GET" else _SAME_METHOD):
                return reply
            there = _joined(address, reply.headers.get("Location", ""))
            if there is None:
                return reply
            address = there
        return reply

    def _failure(self, exc: Exception, call: Call, what: str, idempotent: bool, hint: str) -> SfdaqError:
        """Return the error that tells why there is no reply."""
        late, timeout = call.ended == Call.LATE, call.limit.seconds
        if isinstance(exc, NotConnected):
            return ServiceUnreachable(what, url=self.url, reason=exc)
        reason = f"none within {timeout:g} s" if late else call.ended or _reason(exc)
        if not idempotent:
            return UnknownOutcome(what, url=self.url, reason=reason, hint=hint)
        if late:
            return ServiceTimeout(what, timeout, f"no whole reply from {self.url}")
        if isinstance(exc, WireError):
            return WireError(f"{what}: {exc} (from {self.url})")
        return ServiceUnreachable(what, url=self.url, reason=reason)


def _again(outcome: Reply | Exception, idempotent: bool) -> bool:
    if isinstance(outcome, Reply):
        return idempotent and outcome.code in AWAY
    return isinstance(outcome, NotConnected) or (idempotent and not isinstance(outcome, WireError))


def _joined(address: str, location: str) -> str | None:
    """Return where a redirect leads; None if that is another server, or nowhere."""
    try:
        there = urljoin(address, location)
        here_parts, parts = urlsplit(address), urlsplit(there)
        same = (parts.scheme, parts.netloc) == (here_parts.scheme, here_parts.netloc)
    except ValueError:
        return None
    return there if location and same else None


def _reason(exc: Exception) -> str:
    if isinstance(exc, http.client.HTTPException) and not isinstance(exc, ConnectionError):
        return f"broken reply: {exc!r:.200}"
    return str(getattr(exc, "strerror", None) or exc) or type(exc).__name__


def _content(response: HTTPResponse, most: int, take: Callable[[int], memoryview] | None) -> memoryview:
    """Read a body whole, an image of known length into the buffer that `take` gives."""
    length, noun = response.length, "a reply" if take is None else "an image"
    if length is None:
        pieces = bytearray()
        while piece := response.read1(PIECE):
            pieces += piece
            if len(pieces) > most:
                raise WireError(f"{noun} of unknown length exceeds {most} bytes")
        body = memoryview(pieces)
    elif length > most:
        raise WireError(f"{noun} of {length} bytes exceeds {most} bytes")
    else:
        body = take(length) if take and response.status == 200 and length else memoryview(bytearray(length))
        _check_whole(response.readinto(body) if length else 0, length)
    encoding = _encoding(response)
    return body if length == 0 or encoding == "identity" else _decoded(body, encoding, most)


def _pass_on(response: HTTPResponse, into: Callable[[memoryview], object], call: Call) -> memoryview:
    """Hand a body on as it comes; return what is left of it: nothing."""
    if (encoding := _encoding(response)) != "identity":
        raise WireError(f"a reply in the encoding {encoding[:40]!r}, expected none")
    length, n_bytes = response.length, 0
    while piece := response.read1(PIECE):  # what is there, however little
        into(memoryview(piece))
        n_bytes += len(piece)
        call.progress()
    _check_whole(n_bytes, length)
    return memoryview(b"")


def _encoding(response: HTTPResponse) -> str:
    return response.headers.get("Content-Encoding", "identity").strip().lower()


def _check_whole(n_bytes: int, length: int | None) -> None:
    if length is not None and n_bytes < length:
        raise CutShort(f"the connection ended after {n_bytes} of {length} bytes")


def _decoded(body: memoryview, encoding: str, most: int) -> memoryview:
    """Undo a compression nobody asked for; some gateways compress all the same."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise WireError(f"a reply in the encoding {encoding[:40]!r}, expected none")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        content = unpacker.decompress(body, most)
    except zlib.error as exc:
        raise WireError(f"a reply that is not {encoding} as it says ({exc})") from exc
    if not unpacker.eof:
        raise WireError(f"a reply in {encoding} that ends early, or exceeds {most} bytes")
    return memoryview(content)

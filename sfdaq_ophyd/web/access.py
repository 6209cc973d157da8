"""Who may see the page: anybody on this machine, or whoever has the token."""

from __future__ import annotations

import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse

from ..errors import RequestError

COOKIE = "sfdaq_watch"
SHORTEST_TOKEN = 16
POLICY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Tell whether an address to bind to is only reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_for(host: str, given: str = "") -> str:
    """Return the token to ask for: the given one, a new one where others can reach the page, else none.

    Raises
    ------
    RequestError
        The given one is too short to be a secret.
    """
    if given and len(given) < SHORTEST_TOKEN:
        raise RequestError("token", "*" * len(given), f"{SHORTEST_TOKEN} characters or more")
    return given or ("" if is_loopback(host) else secrets.token_urlsafe(24))


class Guard:
    """ASGI middleware in front of everything.

    Without a token, only requests that name this machine are served, so that a page of the web cannot read
    this one under a name of its own. WebSockets must come from this page.

    Parameters
    ----------
    app : ASGI application
    token : str
        Asked for as ``?token=`` once, then kept in a cookie; or as a bearer token. Empty asks for none.
    """

    def __init__(self, app, token: str = ""):
        self._app, self._token = app, token

    async def __call__(self, scope, receive, send):
        """Serve a request or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._token and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return await _refuse(
                scope, receive, send, 400, f"Host {host!r}: expected this machine's own name"
            )
        origin = headers.get("origin")
        if scope["type"] == "websocket" and origin is not None and urlsplit(origin).netloc != host:
            return await _refuse(scope, receive, send, 403, f"Origin {origin!r}: expected this page")
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self._token and not self._knows(headers, asked):
            return await _refuse(scope, receive, send, 401, "Open the address with ?token=... as printed")
        if asked and self._token and scope["type"] == "http":
            reply = RedirectResponse(scope["path"], 303)
            reply.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return await reply(scope, receive, send)

        async def with_policy(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(POLICY)
            await send(message)

        return await self._app(scope, receive, with_policy)

    def _knows(self, headers: Headers, asked: str) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        shown = (asked, bearer, cookie.value if cookie else "")
        return any(secrets.compare_digest(word.encode(), self._token.encode()) for word in shown)


async def _refuse(scope, receive, send, code: int, words: str):
    if scope["type"] == "websocket":
        await receive()
        return await send({"type": "websocket.close", "code": 1008, "reason": words[:120]})
    return await PlainTextResponse(words, code)(scope, receive, send)

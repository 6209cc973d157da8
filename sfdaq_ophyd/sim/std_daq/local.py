"""What both REST dialects refuse before they look: pages elsewhere, and bodies no client of the DAQ sends."""

from __future__ import annotations

from collections.abc import Mapping

from ..local_only import STATUS, refusal

MAX_BODY = 2**16
"""Longest body of a request, bytes: a configuration of all modules is a tenth of it."""

TOO_LONG = 413


def refused(method: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
    """Return code and text of a refusal; None if the service may look at the request.

    A plain OPTIONS is answered as the real service does, a browser's question before a request is not.
    """
    asks_before = method == "OPTIONS" and "Access-Control-Request-Method" in headers
    why = refusal("OPTIONS" if asks_before else "GET", headers)
    if why is not None:
        return STATUS, why
    length = headers.get("Content-Length", "0")
    if "chunked" in headers.get("Transfer-Encoding", "") or not length.isdecimal() or int(length) > MAX_BODY:
        return TOO_LONG, f"a body of at most {MAX_BODY} bytes, of a length given before, is served here"
    return None


class LocalWsgi:
    """Around a Flask application."""

    def __init__(self, app):
        self._app = app

    def __call__(self, environ, start_response):
        """Answer, or refuse."""
        names = ("Host", "Origin", "Access-Control-Request-Method", "Transfer-Encoding")
        headers = {name: environ.get("HTTP_" + name.upper().replace("-", "_")) for name in names}
        headers["Content-Length"] = environ.get("CONTENT_LENGTH") or None
        headers = {name: value for name, value in headers.items() if value is not None}
        if (refusal_of_it := refused(environ["REQUEST_METHOD"], headers)) is None:
            return self._app(environ, start_response)
        code, text = refusal_of_it
        start_response(f"{code} Refused", [("Content-Type", "text/plain"), ("Connection", "close")])
        return [text.encode()]


class LocalAsgi:
    """Around a FastAPI application."""

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        """Answer, or refuse."""
        headers = {
            name.decode("latin-1").title(): value.decode("latin-1") for name, value in scope["headers"]
        }
        if (refusal_of_it := refused(scope["method"], headers)) is None:
            await self._app(scope, receive, send)
            return
        code, text = refusal_of_it
        header = [(b"content-type", b"text/plain"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": code, "headers": header})
        await send({"type": "http.response.body", "body": text.encode()})

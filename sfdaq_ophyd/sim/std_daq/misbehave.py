"""Faults of the REST interface itself: replies that come late or never."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from .faults import Faults


class WsgiFaults:
    """Around a Flask application: hang, lost_reply."""

    def __init__(self, app, faults: Faults, closing: threading.Event):
        self._app, self._faults, self._closing = app, faults, closing

    def __call__(self, environ, start_response):
        """Answer, or not."""
        path = environ["PATH_INFO"]
        if fault := self._faults.take("hang", path=path):
            self._closing.wait(fault.get("seconds", 30.0))
        lost = self._faults.take("lost_reply", path=path)
        reply = self._app(environ, start_response)
        if lost:
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return reply


class AsgiFaults:
    """Around a FastAPI application: hang, lost_reply."""

    def __init__(self, app, faults: Faults, closing: threading.Event):
        self._app, self._faults, self._closing = app, faults, closing

    async def __call__(self, scope, receive, send):
        """Answer, or not."""
        if fault := self._faults.take("hang", path=scope["path"]):
            await asyncio.to_thread(self._closing.wait, fault.get("seconds", 30.0))
        if self._faults.take("lost_reply", path=scope["path"]):
            with contextlib.suppress(Exception):  # raised again once its reply is sent
                await self._app(scope, receive, _swallow)
            header = [(b"content-length", b"1000"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 200, "headers": header})
            return
        await self._app(scope, receive, send)


async def _swallow(message) -> None:
    pass

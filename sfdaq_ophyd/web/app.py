"""The page as a web application: who may see it, one HTML file, a socket with the state, pictures, pixels."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import secrets
import socket
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse

from ..errors import RequestError, ServiceUnreachable
from .live_frame import LiveFrame
from .picture import PictureView, Wishes, draw, frame_message
from .sources import Watch

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
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name, page = urlsplit(f"//{host}").hostname or "", urlsplit(origin or "").netloc
        except ValueError:
            return await _refuse(
                scope, receive, send, 400, f"Host {host!r}, Origin {origin!r}: expected addresses"
            )
        if not self._token and not is_loopback(name):
            return await _refuse(
                scope, receive, send, 400, f"Host {host!r}: expected this machine's own name"
            )
        if scope["type"] == "websocket" and origin is not None and page != host:
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


STATIC = Path(__file__).parent / "static"
PERIOD = 0.2
"""s between two messages with the state; new frames and answers to wishes come in between."""

MINUTES_PERIOD = 2.0
"""s between two messages with the last minutes of the detectors."""

SEND_TIMEOUT = 10.0
"""s within which a viewer takes a message; else it is left."""

MAX_VIEWERS = 200
N_DRAWING = 2
"""Pictures drawn at the same time, whatever the number of viewers."""


def make_app(watch: Watch, token: str = "") -> FastAPI:
    """Return the application; it starts and stops `watch`. An empty token lets in all of this machine."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        watch.start()
        yield
        await run_in_threadpool(watch.stop)

    app = FastAPI(title="sfdaq watch", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    drawing = asyncio.Semaphore(N_DRAWING)

    @app.exception_handler(RequestError)
    async def wrong_request(request: Request, exc: RequestError):
        return JSONResponse({"error": str(exc)}, 422)

    @app.get("/")
    def page():
        return FileResponse(STATIC / "index.html")

    @app.get("/api/state")
    def state():
        return Response(watch.state_text(), media_type="application/json")

    @app.get("/api/picture/{name}.png")
    async def png(
        name: str,
        region: str = "",
        side: int = 768,
        colour_map: str = "viridis",
        scale: str = "log",
        low: float | None = None,
        high: float | None = None,
    ):
        frame = _newest(watch, name)
        view = PictureView(_region(region), side, colour_map, scale, low, high)
        async with drawing:
            drawn = await run_in_threadpool(draw, frame, view)
        seen = {"X-Frame": str(frame.number), "X-Event-Id": frame.event_id}
        return Response(drawn.png, media_type="image/png", headers=seen)

    @app.get("/api/pixel/{name}")
    def pixel(name: str, x: int, y: int):
        found = _newest(watch, name).pixel(x, y)
        if found is None:
            raise RequestError("x, y", (x, y), "a pixel of the frame")
        return found

    @app.websocket("/api/live")
    async def live(socket: WebSocket):
        if watch.n_viewers >= MAX_VIEWERS:
            await socket.close(1013)
            return
        await socket.accept()
        with watch.viewer():
            await _Viewer(watch, socket, drawing).serve()

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(Guard, token=token)
    return app


def _newest(watch: Watch, name: str) -> LiveFrame:
    frame = watch.frame(name)
    if frame is None:
        raise HTTPException(404, "no frame yet")
    return frame


def _region(text: str) -> tuple[int, int, int, int] | None:
    if not text:
        return None
    parts = text.split(",")
    try:
        x0, y0, x1, y1 = (int(part) for part in parts)
    except ValueError:
        raise RequestError("region", text, "x0,y0,x1,y1 in pixels") from None
    return x0, y0, x1, y1


class _Viewer:
    """One viewer: takes its wishes; sends the state, and the newest frame of each detector as wished."""

    def __init__(self, watch: Watch, socket: WebSocket, drawing: asyncio.Semaphore):
        self._watch, self._socket, self._drawing = watch, socket, drawing
        self._wishes: dict[str, Wishes] = {}
        self._sent: dict[str, tuple] = {}
        self._n_points: dict[str, int] = {}
        self._minutes_due = 0.0
        self._wished = asyncio.Event()

    async def serve(self) -> None:
        """Send until the viewer is gone, or takes nothing any more."""
        listens = asyncio.ensure_future(self._listen())
        try:
            while not listens.done():
                await self._send(self._watch.state_text())
                await self._send_minutes()
                limit = asyncio.get_running_loop().time() + PERIOD
                while (left := limit - asyncio.get_running_loop().time()) > 0 and not listens.done():
                    self._wished.clear()
                    await self._send_frames()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wished.wait(), left)
        except (WebSocketDisconnect, RuntimeError, TimeoutError):
            pass
        finally:
            listens.cancel()

    async def _listen(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError, KeyError):  # bytes: no text
            while True:
                text = await self._socket.receive_text()
                try:
                    wishes = Wishes.read(text)
                    self._watch.frame(wishes.detector)  # RequestError if there is no such detector
                except RequestError as exc:
                    await self._send(json.dumps({"refused": str(exc)}))
                    continue
                self._wishes[wishes.detector] = wishes
                self._wished.set()
        self._wished.set()

    async def _send(self, message: str | bytes) -> None:
        socket = self._socket
        sent = socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message)
        await asyncio.wait_for(sent, SEND_TIMEOUT)

    async def _send_minutes(self) -> None:
        """Send what changes slowly: the last minutes of each detector, and the new points of scans."""
        now = asyncio.get_running_loop().time()
        if now >= self._minutes_due:
            self._minutes_due = now + MINUTES_PERIOD
            await self._send(self._watch.minutes_text())
        curves = self._watch.curves()
        for uid in set(self._n_points) - {curve.uid for curve in curves}:
            del self._n_points[uid]
        for curve in curves:
            if (n := self._n_points.get(curve.uid, -1)) < len(curve.x):
                message = curve.message(max(0, n))
                self._n_points[curve.uid] = max(0, n) + len(message["x"])
                await self._send(json.dumps({"curve": message}))

    async def _send_frames(self) -> None:
        for name, wishes in list(self._wishes.items()):
            source = self._watch.detector(name)
            frame = source.frame
            if frame is None or self._sent.get(name) == (frame, wishes):
                continue
            before, self._sent[name] = self._sent.get(name), (frame, wishes)
            try:
                same = before is not None and (before[0], before[1].view) == (frame, wishes.view)
                async with self._drawing:
                    message: str | bytes = await run_in_threadpool(
                        frame_message, frame, source.frame_age(frame), wishes, with_picture=not same
                    )
            except RequestError as exc:  # limits the wrong way round; a frame smaller than the part wished
                message = json.dumps({"refused": str(exc), "detector": name})
                del self._sent[name]  # its picture was not sent
                if self._wishes.get(name) is wishes:
                    del self._wishes[name]
            await self._send(message)


def serve(
    watch: Watch,
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    token: str = "",
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the page; returns after Ctrl-C or SIGTERM.

    Parameters
    ----------
    watch : Watch
    host : str
        Where to listen. Any address but this machine's own asks viewers for a token.
    port : int
        0 takes a free one.
    token : str
        In place of a random one, 16 characters or more.
    ready : callable
        Called with the address to open, the token in it.

    Raises
    ------
    ServiceUnreachable
        The address is in use, or not this machine's.
    """
    import uvicorn

    token = token_for(host, token)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as exc:
        raise ServiceUnreachable("listening for viewers", url=f"{host}:{port}", reason=exc) from exc
    shown = f"[{host}]" if family is socket.AF_INET6 else host
    url = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets=sockets)
            ready(url)

    config = uvicorn.Config(
        make_app(watch, token),
        log_config=None,  # its records go where those of the process go
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        ws_max_size=4096,
    )
    with listener:
        Server(config).run(sockets=[listener])

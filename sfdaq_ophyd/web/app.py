"""The page as a web application: one HTML file, a socket with the state, pictures, pixel values."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from ..errors import RequestError
from .access import Guard
from .live_frame import LiveFrame
from .picture import COLOUR_MAPS, View, picture
from .watch import Watch

STATIC = Path(__file__).parent / "static"
PERIOD = 0.2
"""s between two messages to a viewer."""

MAX_VIEWERS = 200
N_DRAWING = 2
"""Pictures drawn at the same time, whatever the number of viewers."""


def make_app(watch: Watch, token: str = "") -> FastAPI:
    """Return the application; it starts and stops `watch`.

    Parameters
    ----------
    watch : Watch
    token : str
        What a viewer has to know; empty lets everybody on this machine in.
    """

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

    @app.get("/api/colour-maps")
    def colour_maps():
        return list(COLOUR_MAPS)

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
        view = View(_region(region), side, colour_map, scale, low, high)
        async with drawing:
            drawn = await run_in_threadpool(picture, frame, view)
        seen = {"X-Frame": str(frame.number), "X-Event-Id": frame.event_id}
        return Response(drawn, media_type="image/png", headers=seen)

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
            leaves = asyncio.ensure_future(_until_closed(socket))
            try:
                while not leaves.done():
                    await asyncio.wait_for(socket.send_text(watch.state_text()), 10)
                    await asyncio.wait({leaves}, timeout=PERIOD)
            except (WebSocketDisconnect, RuntimeError, TimeoutError):
                pass  # the viewer is gone, or takes nothing any more
            finally:
                leaves.cancel()

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


async def _until_closed(socket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.receive_text()

"""REST of the generations with Redis: one table of endpoints, and dialect D1, which serves them as Flask did.

Every reply of D1 has HTTP code 200, whatever went wrong. Dialect D2 is in `rest_fastapi`.
"""

# no `from __future__ import annotations`: FastAPI reads those of the endpoints

import contextlib
import io
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from inspect import signature
from typing import Any

from PIL import Image as PilImage
from PIL import ImageDraw
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from .files import check_path
from .image_source import Image, ImageSource
from .redis_streams import grey_picture
from .service import StdDaqService
from .settings import INTEGERS, ServiceError

Endpoints = dict[tuple[str, str], Callable[..., dict[str, Any] | Response]]
"""Method and path to what answers; its arguments are those of the path, and ``body``."""


def ok(message: str, **payload: Any) -> dict[str, Any]:
    """Return a reply of success."""
    return {"status": "ok", "message": message, **payload}


def endpoints(service: StdDaqService, dialect: "FlaskDialect", closing: threading.Event) -> Endpoints:
    """Return the endpoints of both generations; `closing` ends the live stream."""
    simulator = UdpSimulator(service.settings.simulation, service.source)

    def writer_status():
        status = service.status()
        return ok(f"Writer is {status['state']}", writer=dialect.writer(status))

    def write_async(body: dialect.WriteRequest):  # type: ignore[name-defined] # a class of this object
        return ok("Writing started.", writer=dialect.writer(service.write(dialect.asked(body))))

    def write_sync(body: dialect.WriteRequest):  # type: ignore[name-defined] # a class of this object
        service.write(dialect.asked(body))
        return ok("Writing finished.", writer=dialect.writer(service.wait_while_writing()))

    def stop():
        return ok("Writing stopped.", writer=dialect.writer(service.stop()))

    def get_config():
        config, config_id = service.config()
        depth = None if config is None else config["bit_depth"]
        words = "No config set yet." if config is None else f"DAQ configured for bit_depth={depth}."
        return ok(words, config=config, config_id=config_id)

    def set_config(body: dialect.DaqConfig):  # type: ignore[name-defined] # a class of this object
        return ok("Setting new daq config.", **dialect.set_config(body))

    def logs(n_logs: int):
        return ok("DAQ logs", logs=dialect.logs(service.logs(n_logs)))

    def live():
        media_type = "multipart/x-mixed-replace; boundary=frame"
        return StreamingResponse(live_parts(service, closing), media_type=media_type)

    def simulation(state: dict[str, Any]):
        return ok(f"Simulator for {service.stored_config()['detector_name']}.", simulator=state)

    def simulation_status():
        try:
            return simulation(simulator.status())
        except ServiceError as exc:
            return {"status": "error", "message": str(exc), **dialect.NO_SIMULATOR}

    return {
        ("GET", "/writer/status"): writer_status,
        ("POST", "/writer/write_async"): write_async,
        ("POST", "/writer/write_sync"): write_sync,
        ("POST", "/writer/stop"): stop,
        ("GET", "/daq/config"): get_config,
        ("POST", "/daq/config"): set_config,
        ("GET", "/daq/stats"): lambda: ok("DAQ statistics", stats=service.stats()),
        ("GET", "/daq/logs/{n_logs}"): logs,
        ("GET", "/daq/deployment"): lambda: ok(
            "Deployment status", deployment=dialect.deployment(service.store.deployment())
        ),
        ("GET", "/daq/live"): live,
        ("GET", "/simulation/status"): simulation_status,
        ("POST", "/simulation/start"): lambda: simulation(simulator.start()),
        ("POST", "/simulation/stop"): lambda: simulation(simulator.stop()),
    }


def page() -> Response:
    """Return what a browser sees at the root."""
    return HTMLResponse('<!doctype html><title>Standard DAQ (simulated)</title><img src="/daq/live">')


# ---- dialect D1 --------------------------------------------------------------------------------------


class FlaskDialect:
    """In what the generations differ. D1 merges configurations, and shows things as they are stored."""

    NO_SIMULATOR: dict[str, None] = {}
    """What a reply without a simulator has more."""

    def __init__(self, service: StdDaqService):
        self._service = service
        self.WriteRequest: Any = Any  # what the bodies of a start and of a configuration are
        self.DaqConfig: Any = Any

    def asked(self, body: Any) -> dict[str, Any]:
        """Check a write request in the service's order, with its coercions; return what is asked for."""
        path = _mandatory(body, "output_file")
        check_path(path)
        self._service.check_folder(path)
        given = _mandatory(body, "n_images")
        try:
            n_images = int(given)
        except (TypeError, ValueError):
            raise ServiceError(
                f"Cannot convert n_images={given} to an integer. Must be an integer >= 1."
            ) from None
        if n_images < 1:
            raise ServiceError(f"Invalid n_images={n_images}. Must be an integer >= 1.")
        run_id = body.get("run_id", time.time_ns())
        return {"output_file": path, "n_images": n_images, "run_id": 0 if run_id is None else run_id}

    def set_config(self, body: Any) -> dict[str, Any]:
        """Merge a configuration over what is stored; return what the reply shows.

        Unknown keys are dropped; submodule_info is one of them.
        """
        stored, errors = self._service.config()[0] or {}, ""
        keys = ("detector_name", "detector_type", *INTEGERS, "module_positions")
        config = {key: body.get(key, stored.get(key)) for key in keys}
        for key in INTEGERS:
            try:
                config[key] = int(config[key])
            except ValueError:
                errors += f"non-int value {key};"
        if errors:
            raise ServiceError(f"Config errors: {errors}")
        self._service.set_config(config)
        return {"config": config}

    def writer(self, status: dict[str, Any]) -> dict[str, Any]:
        """Return a status as it is shown."""
        return status

    def logs(self, entries: list[tuple[str, dict[str, Any]]]) -> Any:
        """Return (id, acquisition) of the log as they are shown."""
        return [acquisition for _, acquisition in entries]

    def deployment(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return the deployment as it is shown."""
        return found


def _mandatory(body: Any, field: str) -> Any:
    if field not in body or body[field] is None:
        raise ServiceError(f"Mandatory field missing: {field}")
    return body[field]


WORDS = {
    400: "The browser (or proxy) sent a request that this server could not understand.",
    404: "The requested URL was not found on the server. If you entered the URL manually please check your "
    "spelling and try again.",
    405: "The method is not allowed for the requested URL.",
    415: "Did not attempt to load JSON data because the request Content-Type was not 'application/json'.",
}
"""Of werkzeug, on which Flask stands."""


class _Alphabetical(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content, sort_keys=True).encode()


SERVED = {"headers": [("access-control-allow-origin", "*"), ("connection", "close")]}
"""Options of uvicorn: headers of every reply."""


def make_app(service: StdDaqService, closing: threading.Event) -> Starlette:
    """Build the application of D1; `closing` ends its streams."""
    table = {("GET", "/"): page, **endpoints(service, FlaskDialect(service), closing)}
    routes = [
        Route(path.replace("}", ":int}"), _served(answer), methods=[method])
        for (method, path), answer in table.items()
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused})
    app.router.redirect_slashes = False
    return app


def _served(answer: Callable[..., dict[str, Any] | Response]):
    wants_body = "body" in signature(answer).parameters

    async def serve(request: Request) -> Response:
        given = dict(request.path_params)
        try:
            if wants_body:
                given["body"] = await _json(request)
            reply = await run_in_threadpool(answer, **given)
        except HTTPException:
            raise
        except Exception as exc:
            return _error(str(exc))
        return reply if isinstance(reply, Response) else _Alphabetical(reply)

    return serve


async def _json(request: Request) -> Any:
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415)
    try:
        return json.loads(await request.body())
    except ValueError:
        raise HTTPException(400) from None


def _refused(request: Request, exc: Any) -> Response:
    code, path = exc.status_code, request.url.path
    if code == 404 and "//" in path:
        return RedirectResponse(re.sub("/+", "/", path), 308)
    if code == 405 and request.method == "OPTIONS":
        return HTMLResponse("", headers=exc.headers)
    return _error(f"{code} {HTTPStatus(code).phrase}: {WORDS[code]}")


def _error(message: str) -> Response:
    return _Alphabetical({"status": "error", "message": message})


# ---- what it shows beside writing --------------------------------------------------------------------

SIZE = (800, 600)
"""Width and height of the live stream's pictures."""


def jpeg(picture: PilImage.Image) -> bytes:
    """Encode in colour."""
    output = io.BytesIO()
    picture.convert("RGB").save(output, "JPEG", quality=80)
    return output.getvalue()


def _no_data() -> bytes:
    picture = PilImage.new("RGB", SIZE, "white")
    ImageDraw.Draw(picture).text((SIZE[0] // 2 - 30, SIZE[1] // 2), "No data", fill="black")
    return jpeg(picture)


def live_parts(service: StdDaqService, closing: threading.Event) -> Iterator[bytes]:
    """Yield the parts of a multipart stream: one per image, "No data" where none come."""
    images: queue.Queue[Image] = queue.Queue(maxsize=2)

    def offer(image: Image) -> None:
        with contextlib.suppress(queue.Full):
            images.put_nowait(image)

    pictures, timing = service.pictures(), service.timing
    patience = timing.live_silence
    service.source.observers.append(offer)
    try:
        while not closing.is_set():
            try:
                image = images.get(timeout=patience)
                picture = grey_picture(pictures.frame(image.image_id, image.pulse_id))
                part, patience = jpeg(picture.resize(SIZE)), timing.live_silence
            except queue.Empty:
                part, patience = _no_data(), timing.live_repeat
            yield b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + part + b"\r\n"
    finally:
        service.source.observers.remove(offer)


class UdpSimulator:
    """What stands behind ``/simulation``: READY or STREAMING, or not there, as the service's proxy tells it.

    The detector sends while it streams.
    """

    RATE = 20.0
    """Images per second."""

    def __init__(self, present: bool, source: ImageSource):
        self._present, self._source = present, source
        self._started: float | None = None
        self._n_images = 0

    def status(self) -> dict[str, Any]:
        """Return status and number of images; ServiceError if absent."""
        if not self._present:
            raise ServiceError("Cannot communicate with API on http://127.0.0.1:5001.")
        if self._started is not None:
            self._n_images = int((time.monotonic() - self._started) * self.RATE)
        state = "READY" if self._started is None else "STREAMING"
        return {"status": state, "stats": {"n_generated_images": self._n_images}}

    def start(self) -> dict[str, Any]:
        """Stream, the counter anew."""
        self._reach("start")
        self._started = time.monotonic()
        self._source.burst(2**31, self.RATE)
        return self.status()

    def stop(self) -> dict[str, Any]:
        """Stop; the counter stays."""
        self._reach("stop")
        self.status()
        self._started = None
        self._source.silence()
        return self.status()

    def _reach(self, what: str) -> None:
        if not self._present:
            raise ServiceError(
                f"HTTPConnectionPool(host='127.0.0.1', port=5001): Max retries exceeded with url: /{what} "
                "(Caused by NewConnectionError(\"HTTPConnection(host='127.0.0.1', port=5001): Failed to "
                'establish a new connection: [Errno 111] Connection refused"))'
            )

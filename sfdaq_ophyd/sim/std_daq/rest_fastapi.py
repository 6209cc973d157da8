"""Dialect D2: FastAPI. Validation errors are 422; errors inside are 200 and cost the connection."""

import threading
from collections.abc import Callable

from fastapi import FastAPI, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Match, Route

from ..faults import Faults
from . import models
from .extras import PAGE, FileViewer, UdpSimulator, live_parts, pictures_of
from .models import old_errors
from .service import Service, config_words, ok
from .serving import serve_fastapi
from .settings import INTEGERS, ServiceError

IN_REPLIES = (
    "bit_depth",
    "detector_name",
    "detector_type",
    *INTEGERS[1:],
    "submodule_info",
    "module_positions",
)
"""Order of a stored configuration in the reply to its POST."""


def make_app(service: Service, closing: threading.Event) -> FastAPI:
    """Build the application; `closing` ends its streams."""
    app = FastAPI(title="Standard DAQ (simulated)", strict_content_type=False)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    _add_errors(app, service.settings.pydantic)
    _add_writer(app, service)
    _add_daq(app, service, closing)
    _add_simulation(app, service)
    _add_files(app, FileViewer(service))

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    return app


def serve(
    service: Service, faults: Faults, closing: threading.Event, port: int, start_timeout: float
) -> tuple[str, Callable[[], None]]:
    """Serve a service in a thread; return the address, and what ends it."""
    return serve_fastapi(make_app(service, closing), faults, closing, port, start_timeout)


def _add_errors(app: FastAPI, pydantic: int) -> None:
    @app.exception_handler(Exception)
    def inside(request: Request, exc: Exception) -> JSONResponse:
        return JSONResponse({"status": "error", "message": str(exc)})

    @app.exception_handler(405)
    def wrong_method(request: Request, exc: HTTPException) -> JSONResponse:
        routes = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
        allowed = sorted({m for route in routes if isinstance(route, Route) for m in route.methods or ()})
        return JSONResponse({"detail": exc.detail}, 405, headers={"Allow": ", ".join(allowed)})

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, exc: RequestValidationError) -> JSONResponse:
        errors = jsonable_encoder(exc.errors())
        if len(errors) == 1 and errors[0]["loc"] == ["body"] and errors[0]["input"] is None:
            errors = [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}]
        return JSONResponse({"detail": old_errors(errors, exc.body) if pydantic == 1 else errors}, 422)


def _writer(status: dict) -> dict:
    acquisition = status["acquisition"]
    return {"state": status["state"], "acquisition": acquisition and _acquisition(acquisition, None)}


def _acquisition(record: dict, reports: list | None) -> dict:
    info = {key: record["info"][key] for key in ("n_images", "output_file", "run_id")}
    return {
        "state": record["state"],
        "message": record["message"],
        "info": info,
        "stats": record["stats"],
        "reports": reports,
    }


def _add_writer(app: FastAPI, service: Service) -> None:
    request_model = models.write_request(service.settings.pydantic)

    def checked(request) -> dict:
        service.check_folder(request.output_file, service.stored_config()["writer_user_id"])
        return {
            "output_file": request.output_file,
            "n_images": request.n_images,
            "run_id": request.run_id,
        }

    @app.get("/writer/status")
    def status():
        writer = service.status()
        return ok(f"Writer is {writer['state']}", writer=_writer(writer))

    @app.post("/writer/write_async")
    def write_async(request: request_model):  # type: ignore[valid-type]  # FastAPI reads it at run time
        return ok("Writing started.", writer=_writer(service.write(checked(request))))

    @app.post("/writer/write_sync")
    def write_sync(request: request_model):  # type: ignore[valid-type]
        service.write(checked(request))
        return ok("Writing finished.", writer=_writer(service.wait_while_writing()))

    @app.post("/writer/stop")
    def stop():
        return ok("Writing stopped.", writer=_writer(service.stop()))


def _add_daq(app: FastAPI, service: Service, closing: threading.Event) -> None:
    config_model = models.daq_config(service.settings.pydantic)

    @app.get("/daq/live", response_class=Response)
    def live():
        parts = live_parts(service.observe, pictures_of(service), service.timing, closing)
        return StreamingResponse(parts, media_type="multipart/x-mixed-replace; boundary=frame")

    @app.get("/daq/config")
    def get_config():
        config, config_id = service.config()
        return ok(config_words(config), config=config, config_id=config_id)

    @app.post("/daq/config")
    def set_config(config: config_model):  # type: ignore[valid-type]
        return ok("Setting new daq config.", config=_stored(service, config), config_id=None)

    @app.get("/daq/stats")
    def stats():
        return ok("DAQ statistics", stats=service.stats())

    @app.get("/daq/logs/{n_logs}")
    def logs(n_logs: int):
        entries = service.logs(n_logs)
        reports: list[list[dict]] = [[{}] * service.n_reports(log_id) for log_id, _ in entries]
        return ok("DAQ logs", logs={i: _acquisition(a, r) for (i, a), r in zip(entries, reports)})

    @app.get("/daq/deployment")
    def deployment():
        found = service.deployment()
        if found["config_id"] is None:
            found.update(servers=None, stats=None)
        else:
            found["stats"] = {key: float(value) for key, value in found["stats"].items()}
        return ok("Deployment status", deployment=found)


def _stored(service: Service, config) -> dict:
    """Store a configuration as the service does, which is not always what it says."""
    service.config()  # the stored one is read first, and not used
    whole = {"detector_name": config.detector_name, "detector_type": config.detector_type}
    whole.update({key: int(getattr(config, key)) for key in INTEGERS})
    info = dict(iter(config.submodule_info))
    if config.module_positions:
        raise ServiceError("Object of type ModulePositions is not JSON serializable")
    positions: dict | None = None if config.module_positions is None else {}
    whole.update(module_positions=positions, submodule_info=info)
    service.set_config(whole)
    if positions is None:
        raise ServiceError(
            "1 validation errors:\n  {'type': 'dict_type', 'loc': ('response', 'config', "
            "'module_positions'), 'msg': 'Input should be a valid dictionary', 'input': None}\n"
        )
    return {key: whole[key] for key in IN_REPLIES}


def _add_simulation(app: FastAPI, service: Service) -> None:
    simulator = UdpSimulator(service.settings.simulation, service.source)

    def reply(state: dict) -> dict:
        return ok(f"Simulator for {service.stored_config()['detector_name']}.", simulator=state)

    @app.get("/simulation/status")
    def status():
        try:
            return reply(simulator.status())
        except ServiceError as exc:
            return {"status": "error", "message": str(exc), "simulator": None}

    @app.post("/simulation/start")
    def start():
        return reply(simulator.start())

    @app.post("/simulation/stop")
    def stop():
        return reply(simulator.stop())


def _add_files(app: FastAPI, viewer: FileViewer) -> None:
    @app.get("/file/{acquisition_id}")
    def metadata(acquisition_id: str):
        return ok("Metadata retrieved.", file_metadata=viewer.metadata(acquisition_id))

    @app.get("/file/{acquisition_id}/{i_image}")
    def image(acquisition_id: str, i_image: int, module_map: bool = False, gaps: bool = False):
        return Response(viewer.picture(acquisition_id, i_image), media_type="image/jpeg")

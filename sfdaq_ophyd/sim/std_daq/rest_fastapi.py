"""Dialect D2: FastAPI. Validation errors are 422; errors inside are 200 and cost the connection.

Its bodies are read, and its validation errors worded, as either generation of pydantic did.
"""

# no `from __future__ import annotations`: pydantic and FastAPI read those of local classes

import json
import os
import threading
import time
from typing import Annotated, Any

import h5py
from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from .files import check_path, is_below
from .redis_streams import grey_picture
from .rest import FlaskDialect, endpoints, jpeg, ok, page
from .service import StdDaqService
from .settings import INTEGERS, ServiceError

IN_REPLIES = (
    *("bit_depth", "detector_name", "detector_type"),
    *INTEGERS[1:],
    *("submodule_info", "module_positions"),
)
"""Order of a stored configuration in the reply to its POST."""

SERVED: dict[str, Any] = {}
"""Options of uvicorn."""


def make_app(service: StdDaqService, closing: threading.Event) -> FastAPI:
    """Build the application of D2; `closing` ends its streams."""
    pydantic = service.settings.pydantic
    app = FastAPI(title="Standard DAQ (simulated)", strict_content_type=False)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    app.add_api_route("/", page, include_in_schema=False, response_class=Response)
    table = endpoints(service, FastApiDialect(service), closing) | file_endpoints(service)
    for (method, path), answer in table.items():
        app.add_api_route(path, answer, methods=[method], response_model=None)

    @app.exception_handler(Exception)
    def inside(request: Request, exc: Exception) -> JSONResponse:
        return JSONResponse({"status": "error", "message": str(exc)})

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, exc: RequestValidationError) -> JSONResponse:
        errors = jsonable_encoder(exc.errors())
        if len(errors) == 1 and errors[0]["loc"] == ["body"] and errors[0]["input"] is None:
            errors = [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}]
        if pydantic == 1:
            errors = [old_error(item, exc.body) for item in errors]
        return JSONResponse({"detail": errors}, 422)

    return app


class FastApiDialect(FlaskDialect):
    """D2: whole configurations only, records with reports."""

    NO_SIMULATOR = {"simulator": None}

    def __init__(self, service: StdDaqService):
        super().__init__(service)
        self.WriteRequest, self.DaqConfig = bodies(service.settings.pydantic)

    def asked(self, body: Any) -> dict[str, Any]:
        """Check the folder, for the user that is stored now."""
        self._service.check_folder(body.output_file, self._service.stored_config()["writer_user_id"])
        return {"output_file": body.output_file, "n_images": body.n_images, "run_id": body.run_id}

    def set_config(self, body: Any) -> dict[str, Any]:
        """Store a configuration as the service does, which is not always what it says."""
        self._service.config()  # the stored one is read first, and not used
        config = {"detector_name": body.detector_name, "detector_type": body.detector_type}
        config.update({key: int(getattr(body, key)) for key in INTEGERS})
        info = dict(iter(body.submodule_info))
        if body.module_positions:
            raise ServiceError("Object of type ModulePositions is not JSON serializable")
        positions: dict | None = None if body.module_positions is None else {}
        config.update(module_positions=positions, submodule_info=info)
        self._service.set_config(config)
        if positions is None:
            raise ServiceError(
                "1 validation errors:\n  {'type': 'dict_type', 'loc': ('response', 'config', "
                "'module_positions'), 'msg': 'Input should be a valid dictionary', 'input': None}\n"
            )
        return {"config": {key: config[key] for key in IN_REPLIES}, "config_id": None}

    def writer(self, status: dict[str, Any]) -> dict[str, Any]:
        """Show no reports."""
        acquisition = status["acquisition"]
        return {"state": status["state"], "acquisition": acquisition and _acquisition(acquisition, None)}

    def logs(self, entries: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
        """Show them by id, with reports of which nothing is left."""
        return {i: _acquisition(record, [{}] * self._service.store.n_reports(i)) for i, record in entries}

    def deployment(self, found: dict[str, Any]) -> dict[str, Any]:
        """Show nulls where there is no configuration."""
        if found["config_id"] is None:
            return {**found, "servers": None, "stats": None}
        return {**found, "stats": {key: float(value) for key, value in found["stats"].items()}}


def _acquisition(record: dict[str, Any], reports: list | None) -> dict[str, Any]:
    info = {key: record["info"][key] for key in ("n_images", "output_file", "run_id")}
    shown = {"state": record["state"], "message": record["message"], "info": info}
    return {**shown, "stats": record["stats"], "reports": reports}


def file_endpoints(service: StdDaqService):
    """Return the endpoints that look into the files of the log; ``live`` is what the detector shows now."""

    def opened(log_id: str) -> tuple[str, h5py.File]:
        path = service.store.log_entry(log_id)["info"]["output_file"]
        local = service.folders.local(path)
        if not os.path.exists(local) or not is_below(local, service.folders.writable):
            raise FileNotFoundError(2, "No such file or directory", path)
        return path, h5py.File(local, "r")

    def metadata(acquisition_id: str):
        path, file = opened(acquisition_id)
        with file:
            group = next(iter(file))
            data = file[group]["data"]
            about = {
                "filename": path,
                "file_size": os.path.getsize(file.filename),
                "log_id": acquisition_id,
                "dataset_name": group,
                **dict(zip(("n_images", "image_pixel_height", "image_pixel_width"), data.shape)),
                "dtype": str(data.dtype),
            }
        return ok("Metadata retrieved.", file_metadata=about)

    def picture(acquisition_id: str, i_image: int, module_map: bool = False, gaps: bool = False):
        if acquisition_id == "live":
            frame = service.pictures().frame(service.source.n_images, service.source.n_images)
        else:
            with opened(acquisition_id)[1] as file:
                data = next(iter(file.values()))["data"]
                if not -len(data) <= i_image < len(data):
                    raise ServiceError(f"Index ({i_image}) out of range for (0-{len(data) - 1})")
                frame = data[i_image]
        return Response(jpeg(grey_picture(frame)), media_type="image/jpeg")

    return {("GET", "/file/{acquisition_id}"): metadata, ("GET", "/file/{acquisition_id}/{i_image}"): picture}


# ---- bodies, and the words of the older pydantic -----------------------------------------------------


def _old_integer(value: Any) -> int:
    """Convert as pydantic 1 did: 5.7 becomes 5, and "5.0" is no integer."""
    if value is None:
        raise PydanticCustomError("type_error.none.not_allowed", "none is not an allowed value")
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise PydanticCustomError("type_error.integer", "value is not a valid integer") from None


def _old_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


def _old_mapping(value: Any) -> Any:
    """Take pairs for an object, as pydantic 1 did: an empty list is an empty one."""
    try:
        return dict(value)
    except (TypeError, ValueError):
        return value


def bodies(pydantic: int) -> tuple[type[BaseModel], type[BaseModel]]:
    """Return the models of a write request and of a configuration, for one generation of pydantic."""
    integer: Any = int if pydantic == 2 else Annotated[int, BeforeValidator(_old_integer)]
    text: Any = str if pydantic == 2 else Annotated[str, BeforeValidator(_old_text)]

    class Model(BaseModel):
        if pydantic == 1:
            pairs = model_validator(mode="before")(_old_mapping)

    class WriteRequest(Model):
        n_images: integer = Field(ge=1)
        output_file: Annotated[text, AfterValidator(check_path)]
        run_id: integer = Field(default_factory=time.time_ns)

    class ModulePositions(Model):
        start_x: integer
        start_y: integer
        end_x: integer
        end_y: integer

    class SubmoduleInfo(Model):  # whatever is given here gets lost
        pass

    positions: Any = dict[str, ModulePositions]
    if pydantic == 1:
        positions = Annotated[positions, BeforeValidator(_old_mapping)]

    class DaqConfig(Model):
        bit_depth: integer | None = None
        detector_name: text | None = None
        detector_type: text | None = None
        image_pixel_height: integer | None = None
        image_pixel_width: integer | None = None
        n_modules: integer | None = None
        start_udp_port: integer | None = None
        writer_user_id: integer | None = None
        submodule_info: SubmoduleInfo | None = None
        module_positions: positions | None = None

    return WriteRequest, DaqConfig


NO_DICT = ("type_error.dict", "value is not a valid dict")
NO_INTEGER = ("type_error.integer", "value is not a valid integer")
OLD_WORDS = {
    "missing": ("value_error.missing", "field required"),
    "greater_than_equal": (
        "value_error.number.not_ge",
        "ensure this value is greater than or equal to {ge}",
    ),
    **dict.fromkeys(("model_attributes_type", "model_type", "dict_type"), NO_DICT),
    "string_type": ("type_error.str", "str type expected"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), NO_INTEGER),
    "bool_parsing": ("type_error.bool", "value could not be parsed to a boolean"),
}
"""Type of an error to type and message in pydantic 1."""


def old_error(item: dict[str, Any], body: Any) -> dict[str, Any]:
    """Return an item of ``detail`` as pydantic 1 and its FastAPI wrote it; `body` is the request's."""
    if item["type"] == "json_invalid":
        try:
            json.loads(body)
        except json.JSONDecodeError as broken:
            ctx = {key: getattr(broken, key) for key in ("msg", "doc", "pos", "lineno", "colno")}
            return {"loc": item["loc"], "msg": str(broken), "type": "value_error.jsondecode", "ctx": ctx}
    kind, message = OLD_WORDS.get(item["type"], (item["type"], item["msg"]))
    if item["type"] == "string_type" and item.get("input") is None:
        kind, message = "type_error.none.not_allowed", "none is not an allowed value"
    old = {"loc": item["loc"], "msg": message.format(**item.get("ctx", {})), "type": kind}
    if "ge" in item.get("ctx", {}):
        old["ctx"] = {"limit_value": item["ctx"]["ge"]}
    return old

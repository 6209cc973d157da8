"""Request and reply models of dialect D2, for both generations of pydantic the service ran with."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ...wire.std_daq import OUTPUT_FILE
from .folders import check_path

WORDS = {
    "missing": ("value_error.missing", "field required"),
    "greater_than_equal": (
        "value_error.number.not_ge",
        "ensure this value is greater than or equal to {ge}",
    ),
    "model_attributes_type": ("type_error.dict", "value is not a valid dict"),
    "model_type": ("type_error.dict", "value is not a valid dict"),
    "dict_type": ("type_error.dict", "value is not a valid dict"),
    "string_type": ("type_error.str", "str type expected"),
    "int_parsing": ("type_error.integer", "value is not a valid integer"),
    "int_type": ("type_error.integer", "value is not a valid integer"),
    "int_from_float": ("type_error.integer", "value is not a valid integer"),
    "bool_parsing": ("type_error.bool", "value could not be parsed to a boolean"),
}


def old_errors(errors: list[dict], body) -> list[dict]:
    """Return the ``detail`` list as pydantic 1 and its FastAPI wrote it; `body` is the request's."""
    return [_old(item, body) for item in errors]


def _old(item: dict, body) -> dict:
    if item["type"] == "json_invalid":
        return _broken_json(item, body)
    if item["type"] == "string_type" and item.get("input") is None:
        kind, message = "type_error.none.not_allowed", "none is not an allowed value"
    else:
        kind, message = WORDS.get(item["type"], (item["type"], item["msg"]))
    old = {"loc": item["loc"], "msg": message.format(**item.get("ctx", {})), "type": kind}
    if "ge" in item.get("ctx", {}):
        old["ctx"] = {"limit_value": item["ctx"]["ge"]}
    return old


def _broken_json(item: dict, body: str) -> dict:
    try:
        json.loads(body)
    except json.JSONDecodeError as broken:
        ctx = {key: getattr(broken, key) for key in ("msg", "doc", "pos", "lineno", "colno")}
        return {"loc": item["loc"], "msg": str(broken), "type": "value_error.jsondecode", "ctx": ctx}
    return item


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


LIKE_INTEGER = {
    "anyOf": [{"type": "integer"}, {"type": "boolean"}, {"type": "string", "pattern": "^-?[0-9]{1,18}$"}]
}
"""What counts as an integer, for the OpenAPI."""

LIKE_OLD_INTEGER = {"anyOf": [{"type": "number"}, *LIKE_INTEGER["anyOf"][1:]]}
LIKE_OLD_TEXT = {"type": ["string", "number", "boolean"]}

Integer = Annotated[int, WithJsonSchema(LIKE_INTEGER)]
OldInteger = Annotated[int, BeforeValidator(_old_integer), WithJsonSchema(LIKE_OLD_INTEGER)]
OldText = Annotated[str, BeforeValidator(_old_text), WithJsonSchema(LIKE_OLD_TEXT)]

OLD_MODEL = {"pairs": model_validator(mode="before")(_old_mapping)}
"""Validators of every model of the older generation."""


CORNERS = ("start_x", "start_y", "end_x", "end_y")
"""Of a module in the image."""


class SubmoduleInfo(BaseModel):
    """Whatever is given here gets lost."""


def write_request(pydantic: int) -> type[BaseModel]:
    """Make the body model of write_async and write_sync for one generation of pydantic."""
    integer, text = (int, str) if pydantic == 2 else (OldInteger, OldText)
    return create_model(
        "WriteRequest",
        __config__=ConfigDict(json_schema_extra=partial(_describe_write_request, pydantic)),
        __validators__=OLD_MODEL if pydantic == 1 else {},
        n_images=(integer, Field(ge=1)),
        output_file=(Annotated[text, AfterValidator(check_path)], ...),
        run_id=(integer, Field(default_factory=time.time_ns)),
    )


def _describe_write_request(pydantic: int, schema: dict) -> None:
    """Say what is taken: a bad path wins over all other mistakes, and comes with code 200."""
    digits = {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}
    number, text = ("integer", "string") if pydantic == 2 else ("number", ["string", "number", "boolean"])
    taken = {
        "output_file": {"type": "string", "pattern": OUTPUT_FILE.pattern},
        "n_images": {"anyOf": [{"type": number, "minimum": 1}, {"const": True}, digits]},
        "run_id": LIKE_INTEGER if pydantic == 2 else LIKE_OLD_INTEGER,
    }
    refused = {"output_file": {"type": text, "not": {"type": "string", "pattern": OUTPUT_FILE.pattern}}}
    title = schema.pop("title")
    schema.clear()
    schema.update(
        title=title,
        type="object",
        anyOf=[
            {"required": ["output_file", "n_images"], "properties": taken},
            {"required": ["output_file"], "properties": refused},
        ],
    )


def _with(kind: Any, validators: tuple) -> Any:
    return Annotated[kind, *validators] if validators else kind


def daq_config(pydantic: int) -> type[BaseModel]:
    """Make the body model of POST /daq/config for one generation of pydantic."""
    integer, text = (Integer, str) if pydantic == 2 else (OldInteger, OldText)
    mapping = () if pydantic == 2 else (BeforeValidator(_old_mapping),)
    positions = create_model("ModulePositions", **dict.fromkeys(CORNERS, (integer, ...)))
    integers = ("image_pixel_height", "image_pixel_width", "n_modules", "start_udp_port", "writer_user_id")
    return create_model(
        "DaqConfig",
        __validators__=OLD_MODEL if pydantic == 1 else {},
        bit_depth=(integer | None, None),
        detector_name=(text | None, None),
        detector_type=(text | None, None),
        **dict.fromkeys(integers, (integer | None, None)),
        submodule_info=(_with(SubmoduleInfo, mapping) | None, None),
        module_positions=(_with(dict[str, _with(positions, mapping)], mapping) | None, None),
    )


# ---- replies ----------------------------------------------------------------------------------------


class Reply(BaseModel):
    """Envelope of every reply; also of an error, which has nothing else and comes with code 200."""

    model_config = ConfigDict(extra="forbid")
    status: Literal["ok"]
    message: str


class ErrorReply(BaseModel):
    """Something failed inside the service."""

    model_config = ConfigDict(extra="forbid")
    status: Literal["error"]
    message: str


class Detail(BaseModel):
    """The request itself cannot be read."""

    detail: str


class SimulatorErrorReply(ErrorReply):
    """The UDP simulator is absent."""

    simulator: None


class Info(BaseModel):
    """What was asked for."""

    n_images: int
    output_file: str
    run_id: int


class AcquisitionStats(BaseModel):
    """Counts, and times in seconds since the epoch."""

    n_write_completed: int
    n_write_requested: int
    start_time: float | None
    stop_time: float | None


class Acquisition(BaseModel):
    """One acquisition."""

    state: str
    message: str
    info: Info
    stats: AcquisitionStats
    reports: list[dict] | None


class Writer(BaseModel):
    """Status of the writer."""

    state: Literal["UNKNOWN", "READY", "WRITING"]
    acquisition: Acquisition | None


class WriterReply(Reply):
    """Reply with the writer's status."""

    writer: Writer


class ConfigReply(Reply):
    """Reply with the configuration."""

    config: dict | None
    config_id: str | None


class StatsReply(Reply):
    """Reply with throughput."""

    stats: dict[str, dict[str, float]] | None


class LogsReply(Reply):
    """Reply with acquisitions by log id, newest first."""

    logs: dict[str, Acquisition]


class Deployment(BaseModel):
    """How far a configuration has got."""

    config_id: str | None
    status: Literal["UNKNOWN", "RUNNING", "SUCCESS", "ERROR"]
    message: str
    servers: dict[str, str] | None
    stats: dict[str, float] | None


class DeploymentReply(Reply):
    """Reply with the deployment."""

    deployment: Deployment


class SimulatorReply(Reply):
    """Reply of the UDP simulator."""

    simulator: dict


class FileMetadata(BaseModel):
    """What is in a file."""

    filename: str
    file_size: int
    log_id: str
    dataset_name: str
    n_images: int
    image_pixel_height: int
    image_pixel_width: int
    dtype: str


class FileReply(Reply):
    """Reply with a file's metadata."""

    file_metadata: FileMetadata

"""Request models of dialect D2, for both generations of pydantic the service ran with."""

from __future__ import annotations

import json
import time
from types import GenericAlias
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .files import check_path

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


OldInteger = Annotated[int, BeforeValidator(_old_integer)]
OldText = Annotated[str, BeforeValidator(_old_text)]

OLD_MODEL: dict[str, Any] = {"pairs": model_validator(mode="before")(_old_mapping)}
"""Validators of every model of the older generation."""


CORNERS = ("start_x", "start_y", "end_x", "end_y")
"""Of a module in the image."""


class SubmoduleInfo(BaseModel):
    """Whatever is given here gets lost."""


def write_request(pydantic: int) -> type[BaseModel]:
    """Make the body model of write_async and write_sync for one generation of pydantic."""
    integer, text = (int, str) if pydantic == 2 else (OldInteger, OldText)
    fields: dict[str, Any] = {
        "n_images": (integer, Field(ge=1)),
        "output_file": (_with(text, (AfterValidator(check_path),)), ...),
        "run_id": (integer, Field(default_factory=time.time_ns)),
    }
    return create_model("WriteRequest", __validators__=OLD_MODEL if pydantic == 1 else {}, **fields)


def _with(kind: Any, validators: tuple) -> Any:
    return Annotated[kind, *validators] if validators else kind


def daq_config(pydantic: int) -> type[BaseModel]:
    """Make the body model of POST /daq/config for one generation of pydantic."""
    integer, text = (int, str) if pydantic == 2 else (OldInteger, OldText)
    mapping = () if pydantic == 2 else (BeforeValidator(_old_mapping),)
    corners: dict[str, Any] = dict.fromkeys(CORNERS, (integer, ...))
    corner_model = _with(create_model("ModulePositions", **corners), mapping)
    integers = ("image_pixel_height", "image_pixel_width", "n_modules", "start_udp_port", "writer_user_id")
    fields: dict[str, Any] = {
        "bit_depth": (integer | None, None),
        "detector_name": (text | None, None),
        "detector_type": (text | None, None),
        **dict.fromkeys(integers, (integer | None, None)),
        "submodule_info": (_with(SubmoduleInfo, mapping) | None, None),
        "module_positions": (_with(GenericAlias(dict, (str, corner_model)), mapping) | None, None),
    }
    return create_model("DaqConfig", __validators__=OLD_MODEL if pydantic == 1 else {}, **fields)

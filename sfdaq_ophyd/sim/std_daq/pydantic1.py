"""Validation errors in the words of pydantic 1, out of those of pydantic 2."""

from __future__ import annotations

import json

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

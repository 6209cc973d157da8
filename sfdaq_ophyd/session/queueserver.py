"""Parameter types of our plans, in the words of bluesky-queueserver."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

TYPES = {
    "Sequence[Any]": "typing.Sequence[__READABLE__]",
    "Sequence[Detector]": "typing.Sequence[__DEVICE__]",
    "Sequence[str]": "typing.Sequence[str]",
    "Sequence[str] | None": "typing.Optional[typing.Sequence[str]]",
    "SfDaqBroker": "__DEVICE__",
    "Policy": "typing.Literal['open_run', 'staged', 'first_acquisition']",
    "dict | None": "typing.Optional[dict]",
    "dict[str, Any]": "dict",
    "dict[str, Any] | None": "typing.Optional[dict]",
    "int | None": "typing.Optional[int]",
    "float | None": "typing.Optional[float]",
    **{plain: plain for plain in ("bool", "int", "float", "str")},
}
"""Annotation in our source to one that the queue server checks; it cannot read ours, which are strings."""

DEVICES = {
    "args": "typing.Union[__MOVABLE__, typing.Any]",
    "shutter": "typing.Optional[__MOVABLE__]",
    "writer": "__DEVICE__",
}
"""By the parameter's name, where the annotation leaves it open."""


def annotated(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return this package's plans among `names` with their parameters described to the queue server.

    Nothing is returned, and nothing imported, where no queue server is running this.
    """
    if "bluesky_queueserver" not in sys.modules:
        return {}
    from bluesky_queueserver import parameter_annotation_decorator

    described = {}
    for name, plan in names.items():
        if inspect.isfunction(plan) and (plan.__module__ or "").startswith("sfdaq_ophyd.plans"):
            known = {}
            for parameter in inspect.signature(plan).parameters.values():
                words = DEVICES.get(parameter.name) or TYPES.get(parameter.annotation, "typing.Any")
                known[parameter.name] = {"annotation": words}
            described[name] = parameter_annotation_decorator({"parameters": known})(plan)
    return described

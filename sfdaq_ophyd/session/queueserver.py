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

DEVICES = {"writer": "__DEVICE__", "shutter": "typing.Optional[__MOVABLE__]"}
"""By the parameter's name, where the annotation leaves it open."""


def annotate(names: Mapping[str, Any]) -> None:
    """Describe the parameters of this package's plans among `names` to the queue server; else do nothing."""
    if "bluesky_queueserver" not in sys.modules:
        return
    from bluesky_queueserver import parameter_annotation_decorator

    for plan in list(names.values()):
        if inspect.isfunction(plan) and (plan.__module__ or "").startswith("sfdaq_ophyd.plans"):
            known = {}
            for parameter in inspect.signature(plan).parameters.values():
                words = DEVICES.get(parameter.name) or TYPES.get(parameter.annotation)
                if words:
                    known[parameter.name] = {"annotation": words}
            parameter_annotation_decorator({"parameters": known})(plan)

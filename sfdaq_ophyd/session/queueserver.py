"""Parameter types of plans, in the words of bluesky-queueserver, which refuses an item that does not fit."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from bluesky.protocols import Movable, Readable
from ophyd import Device

from ..devices import SfDaqBroker, StdDaqWriter

TYPES = {
    "Sequence[Any]": "typing.Sequence[Readables]",
    "Sequence[Detector]": "typing.Sequence[Readables]",
    "Sequence[str]": "typing.Sequence[str]",
    "Sequence[str] | None": "typing.Optional[typing.Sequence[str]]",
    "SfDaqBroker": "Brokers",
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
    "detectors": "typing.Sequence[Readables]",
    "args": "typing.Union[Movables, bool, int, float, typing.List[typing.Any]]",
    "shutter": "typing.Optional[Movables]",
    "writer": "Writers",
    **dict.fromkeys(("motor", "x_motor", "y_motor"), "Movables"),
}
"""By the parameter's name, in our plans and in bluesky's; its own words let any text pass for a device."""

KINDS = {"Readables": Readable, "Movables": Movable, "Brokers": SfDaqBroker, "Writers": StdDaqWriter}
"""Names of lists of devices, and what is in them."""


def annotated(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plans among `names`, with their parameters described to the queue server.

    Nothing is returned, and nothing imported, where no queue server is running this.
    """
    if "bluesky_queueserver" not in sys.modules:
        return {}
    from bluesky_queueserver import parameter_annotation_decorator

    lists = {kind: list(_named(names, protocol)) for kind, protocol in KINDS.items()}
    described = {}
    for name, plan in names.items():
        module = getattr(plan, "__module__", None) or ""
        ours = module.startswith("sfdaq_ophyd.plans")
        if name.startswith("_") or not inspect.isfunction(plan) or not (ours or module == "bluesky.plans"):
            continue
        known = {}
        for parameter in inspect.signature(plan).parameters.values():
            words = DEVICES.get(parameter.name)
            if ours:
                words = words or TYPES.get(parameter.annotation, "typing.Any")
            if words:
                known[parameter.name] = _described(words, lists)
        described[name] = parameter_annotation_decorator({"parameters": known})(plan)
    return described


def _described(words: str, lists: dict[str, list[str]]) -> dict[str, Any]:
    kind = next((kind for kind in lists if kind in words), None)
    if kind is None:
        return {"annotation": words}
    if not lists[kind]:
        return {"annotation": words.replace(kind, f"typing.Literal['there are no {kind}']")}
    return {"annotation": words, "devices": {kind: lists[kind]}}


def _named(names: Mapping[str, Any], protocol: type) -> Iterator[str]:
    """Yield names of devices, and of their parts; of these the classes say what they are."""
    for name, device in names.items():
        if name.startswith("_") or inspect.isclass(device) or not isinstance(device, Readable | Movable):
            continue
        if isinstance(device, protocol):
            yield name
        for part, component in (
            getattr(device, "_sig_attrs", {}).items() if isinstance(device, Device) else ()
        ):
            if all(hasattr(component.cls, verb) for verb in _verbs(protocol)):
                yield f"{name}.{part}"


def _verbs(protocol: type) -> tuple[str, ...]:
    verbs: dict[type, tuple[str, ...]] = {Readable: ("read", "describe"), Movable: ("set",)}
    return verbs.get(protocol, ("never",))

"""get_detector_settings, set_detector_settings (contract sections 5.3, 10.1)."""

from __future__ import annotations

from typing import Any

from ...wire.broker_settings import HARDWARE_SETTINGS
from .delays import DETECTOR_MODE
from .detectors import check_belongs
from .hardware import Detector
from .refusals import required
from .site import Caller, Site

NO_NAME = "no detector name in the request"


def detector_name(site: Site, request: Any, caller: Caller, *others: str, key: str = "detector_name") -> str:
    """Return the detector of a request, which must be of the caller's beamline."""
    required(request, key, documented=NO_NAME)
    required(request, *others)
    check_belongs(site.table, caller.beamline, request[key])
    return request[key]


def configured(
    site: Site, request: Any, caller: Caller, *others: str, key: str = "detector_name"
) -> Detector:
    """Return the detector of a request, which the server must know."""
    detector = site.hardware[detector_name(site, request, caller, *others, key=key)]
    detector.check_configured()
    return detector


def get_detector_settings(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Read back."""
    detector = configured(site, request, caller)
    settings = {name: detector.readback(name) for name in HARDWARE_SETTINGS}
    if site.dialect == "documented":
        return settings
    message = f"successfully retrieved detector settings from {detector.name}"
    return {"message": message, "parameters": settings}


def set_detector_settings(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Stop the trigger, set what differs, start it: what raises in between leaves it stopped."""
    documented = site.dialect == "documented"
    name = detector_name(site, request, caller, *([] if documented else ["parameters"]))
    parameters = request if documented else request["parameters"]
    trigger, detector = site.trigger(caller.beamline), site.hardware[name]
    trigger.stop()
    detector.check_configured()
    changed = {}
    for setting in HARDWARE_SETTINGS:
        new = parameters.get(setting)
        old = detector.readback(setting)
        if new is None or new == old:
            continue
        detector.apply(setting, new)
        changed[setting] = [old, new]
        if setting == "detector_mode":
            site.delays.wait(DETECTOR_MODE)
    trigger.start()
    if documented:
        return {}
    return {"message": f"successfully changed detector settings of {name}", "changed_parameters": changed}

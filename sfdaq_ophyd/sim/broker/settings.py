"""get_detector_settings, set_detector_settings (contract sections 5.3, 10.1)."""

from __future__ import annotations

from typing import Any

from ...wire.broker_settings import HARDWARE_SETTINGS
from .delays import DETECTOR_MODE
from .detectors import check_belongs
from .hardware import MODES, Detector
from .refusals import TriggerError, ValidationError, required
from .site import Caller, Site

NO_NAME = "no detector name in the request"


def detector_name(site: Site, request: Any, caller: Caller, *others: str, key: str = "detector_name") -> str:
    """Return the detector of a request, which must be of the caller's beamline."""
    if site.dialect == "documented" and not request.get(key):
        raise ValidationError(NO_NAME)
    required(request, *others, key)
    check_belongs(site.table, caller.beamline, request[key])
    return request[key]


def configured(site: Site, request: Any, caller: Caller, key: str = "detector_name") -> Detector:
    """Return the detector of a request, which the server must know."""
    detector = site.hardware[detector_name(site, request, caller, key=key)]
    detector.check_configured()
    return detector


def get_detector_settings(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Read back."""
    detector = configured(site, request, caller)
    settings = {name: detector.readback(name) for name in HARDWARE_SETTINGS}
    if site.dialect == "documented":
        if isinstance(settings["gain_mode"], dict):
            raise TypeError("unhashable type: 'list'")
        return settings
    message = f"successfully retrieved detector settings from {detector.name}"
    return {"message": message, "parameters": settings}


def set_detector_settings(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Stop the trigger, set what differs, start it: what raises in between leaves it stopped."""
    if site.dialect == "documented":
        return _set_documented(site, request, caller)
    name = detector_name(site, request, caller, "parameters")
    wanted = {setting: request["parameters"].get(setting) for setting in HARDWARE_SETTINGS}
    trigger, detector = site.trigger(caller.beamline), site.hardware[name]
    trigger.stop()
    changed = {}
    for setting, new in wanted.items():
        if new is None:
            continue
        detector.check_configured()
        old = detector.readback(setting)
        if new == old:
            continue
        detector.apply(setting, new)
        changed[setting] = [old, new]
        if setting == "detector_mode":
            site.delays.wait(DETECTOR_MODE)
    trigger.start()
    return {"message": f"successfully changed detector settings of {name}", "changed_parameters": changed}


def _set_documented(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Set what is at the top of the request; zero, nothing and unknown modes are passed over."""
    detector = site.hardware[detector_name(site, request, caller)]
    trigger = site.trigger(caller.beamline)
    try:
        trigger.stop()
    except TriggerError as exc:
        raise ValidationError("tried to stop detector trigger but failed") from exc
    for setting in ("exptime", "detector_mode", "delay", "gain_mode"):
        new = request.get(setting)
        if new and (setting not in MODES or new in MODES[setting]):
            detector.check_configured()
            detector.apply(setting, new)
    trigger.start()
    return {}

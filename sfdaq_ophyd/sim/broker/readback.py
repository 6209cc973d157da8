"""Status, temperatures, pings, control box and module power of a detector (contract section 10)."""

from __future__ import annotations

from typing import Any

from .delays import MODULE_POWER
from .hardware import CONTROL_BOXES, Detector
from .refusals import ValidationError
from .settings import configured, detector_name
from .site import Caller, Site


def get_detector_status(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return modules by state."""
    detector = configured(site, request, caller)
    message = f"successfully retrieved status from {detector.name}"
    return {"message": message, "detector_status": detector.grouped("state")}


def get_detector_temperatures(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return temperatures of every module, degC."""
    return _temperatures(configured(site, request, caller))


def get_detector_pings(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return which modules answer on the network; also of a detector the server does not know."""
    detector = site.hardware[detector_name(site, request, caller)]
    reachable = [i for i, module in enumerate(detector.modules) if module.reachable]
    unreachable = [i for i, module in enumerate(detector.modules) if not module.reachable]
    return {
        "message": f"successfully retrieved pings of {detector.name}",
        "pings": {"responding": reachable, "unreachable": unreachable},
    }


def get_jfctrl_monitor(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return what the control box says."""
    detector = site.hardware[detector_name(site, request, caller)]
    message = f"successfully retrieved JFCtrl monitor parameters from {detector.name}"
    return {"message": message, "parameters": _control_box(detector)}


def get_jfstats(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return temperatures and, where there is a control box, its values and whether module 0 writes data."""
    detector = configured(site, request, caller, key="det")
    reply = _temperatures(detector)
    if detector.installation in CONTROL_BOXES:
        site.hardware.refresh(detector.name, site.trigger(caller.beamline).running)
        reply |= {
            "message": "successfully retrieved JFCtrl monitor parameters and temperatures from "
            f"{detector.name}",
            "parameters": _control_box(detector),
            "writing": site.hardware.writing(detector.name)[0],
        }
    return reply


def power_on_modules(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Switch modules on; 1 s."""
    reply = _power(site, request, caller, True)
    site.delays.wait(MODULE_POWER)
    return reply


def power_off_modules(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Switch modules off."""
    return _power(site, request, caller, False)


def _power(site: Site, request: Any, caller: Caller, on: bool) -> dict[str, Any]:
    detector = site.hardware[detector_name(site, request, caller, "modules")]
    modules = request["modules"]
    for number in modules:
        if not 0 <= number < len(detector.modules):
            raise ValidationError(
                f"requested module {number} is not allowed for detector {detector.name} "
                f"(number of modules: {len(detector.modules)})"
            )
    detector.check_configured()
    for number in modules:
        detector.modules[number].powered = on
    return {"message": f"successfully powered {'on' if on else 'off'} modules {modules} of {detector.name}"}


def _temperatures(detector: Detector) -> dict[str, Any]:
    return {
        "message": f"successfully retrieved temperatures from {detector.name}",
        "temperatures": {
            "TEMPERATURE_ADC": [module.temperature_adc for module in detector.modules],
            "TEMPERATURE_FPGA": [module.temperature_fpga for module in detector.modules],
            "TEMPERATURE_THRESHOLDS": [module.temperature_threshold for module in detector.modules],
        },
    }


def _control_box(detector: Detector) -> dict[str, float]:
    if detector.installation not in CONTROL_BOXES:
        raise ValueError(f"cannot match Jungfrau ID {detector.installation} to host name")
    if detector.box_failure is not None:
        raise detector.box_failure
    return dict(detector.box)

"""Calls about detectors: which there are, their settings, what they read back, pedestals, their processing.

The lists are those of the wire reference sf-daq-broker, sections 3.1 and 3.2.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import posixpath
from typing import Any

from ...wire.broker import PEDESTAL_FRAMES, PEDESTALS
from ...wire.broker_parameters import HARDWARE_SETTINGS
from ...wire.pulse_id import PULSE_RATE
from .hardware import (
    BUFFER,
    CONTROL_BOXES,
    MODES,
    DetectorEntry,
    DetectorHardware,
)
from .run_calls import PGroup, make_directory, stamp
from .site import (
    DETECTOR_MODE,
    MODULE_POWER,
    Caller,
    Site,
    TriggerError,
    ValidationError,
    check_belongs,
    detectors_of,
    required,
)

NO_NAME = "no detector name in the request"


def detector_name(site: Site, request: Any, caller: Caller, key: str = "detector_name") -> str:
    """Return the detector of a request, which must be of the caller's beamline."""
    if site.dialect == "documented" and not request.get(key):
        raise ValidationError(NO_NAME)
    check_belongs(site, caller.beamline, request[key])
    return request[key]


def configured(site: Site, request: Any, caller: Caller, key: str = "detector_name") -> DetectorHardware:
    """Return the detector of a request, which the server must know."""
    detector = site.hardware[detector_name(site, request, caller, key)]
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
    name = detector_name(site, request, caller)
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
    detector = site.hardware[detector_name(site, request, caller)]
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


def _temperatures(detector: DetectorHardware) -> dict[str, Any]:
    return {
        "message": f"successfully retrieved temperatures from {detector.name}",
        "temperatures": {
            "TEMPERATURE_ADC": [module.temperature_adc for module in detector.modules],
            "TEMPERATURE_FPGA": [module.temperature_fpga for module in detector.modules],
            "TEMPERATURE_THRESHOLDS": [module.temperature_threshold for module in detector.modules],
        },
    }


def _control_box(detector: DetectorHardware) -> dict[str, float]:
    if detector.installation not in CONTROL_BOXES:
        raise ValueError(f"cannot match Jungfrau ID {detector.installation} to host name")
    if detector.box_failure is not None:
        raise detector.box_failure
    return dict(detector.box)


STAMP = "%Y%m%d_%H%M%S"


def take_pedestal(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Queue a pedestal; the reply's time is a promise."""
    beamline = caller.beamline
    detectors_of(site, beamline)
    rate = request.get("rate_multiplicator", 1)
    required(request, "detectors", documented="no detectors defined")
    detectors = request["detectors"]
    names = list(detectors) if site.dialect == "current" else list(detectors.keys())
    if not names:
        raise ValidationError('no "detectors" provided in the request parameters', "no detectors defined")
    check_belongs(site, beamline, *names)
    required(request, "pgroup")  # the 2023 server asks for it last
    pgroup = PGroup(site.tree, beamline, request["pgroup"])
    directory = pgroup.raw + PEDESTALS
    make_directory(site.tree, directory)
    pgroup.make_run_info()
    pgroup.check_open()

    prefix = f"{directory}/{site.delays.now():{STAMP}}"
    stored = {**request, "directory_name": PEDESTALS, "request_time": site.delays.request_time()}
    site.tree.write_json(f"{prefix}.json", stored, sort_keys=site.dialect == "current")
    body = {
        "writer_type": "pedestal",
        "detectors": names,
        "rate_multiplicator": rate,
        "channels": None,
        "start_pulse_id": 0,
        "stop_pulse_id": 100,
        "output_file": None,
        "output_file_prefix": prefix,
        "run_log_file": f"{prefix}.log",
        "run_file_json": f"{prefix}.json",
        "run_info_directory": directory,
        "path_to_pgroup": pgroup.raw,
        "directory_name": PEDESTALS,
        "metadata": None,
        "request_time": site.delays.request_time(),
        "timestamp": None,
    }
    if site.dialect == "current":
        body["pedestalmode"] = request.get("pedestalmode", False)
        body["run_log_level"] = request.get("run_log_level")
    site.messages.connect()
    site.messages.send("detector.pedestal", body)
    seconds = PEDESTAL_FRAMES / PULSE_RATE * rate + 10
    if site.dialect == "current":
        return {"message": f"request to take pedestal sent, wait at least {seconds} seconds"}
    zeros = dict.fromkeys(("run_number", "acquisition_number", "unique_acquisition_number"), "0")
    return {"message": f"will do a pedestal now, wait at least {seconds} seconds", **zeros}


def power_on_detector(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Queue a restart of a detector."""
    name, beamline = detector_name(site, request, caller), caller.beamline
    body = {
        "detector_name": name,
        "beamline": beamline,
        "writer_type": "detector_power_on",
        "channels": None,
    }
    site.messages.connect()
    site.messages.send("detector.pedestal", body)
    return site.sends_current(
        {"message": f"request to power on detector {name} sent, wait a few minutes"},
        {"message": "request to power on detector is sent, wait few minutes"},
    )


def get_allowed_detectors(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return the detectors of the caller's beamline."""
    entries = _entries(site, caller)
    lists = {
        "detectors": [entry.name for entry in entries],
        "visualisation_address": [entry.visualisation_address for entry in entries],
    }
    descriptions = [entry.description for entry in entries]
    if site.dialect == "documented":
        return {"status": None, **lists, "names": descriptions}
    message = f"successfully retrieved list of allowed detectors for {caller.beamline}"
    return {"message": message, **lists, "descriptions": descriptions}


def get_running_detectors(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return which of them write into the buffer."""
    entries = _entries(site, caller)
    for entry in entries:
        site.hardware.refresh(entry.name, site.trigger(caller.beamline).running)
    writing = {entry.name: site.hardware.writing(entry.name) for entry in entries}
    if site.dialect == "documented":
        return {"status": None, "detectors": [name for name, modules in writing.items() if modules[0]]}
    running = [name for name, modules in writing.items() if all(modules)]
    limping = {
        name: {
            "running_modules": [i for i, writes in enumerate(modules) if writes],
            "missing_modules": [i for i, writes in enumerate(modules) if not writes],
        }
        for name, modules in writing.items()
        if any(modules) and not all(modules)
    }
    return {
        "message": "successfully retrieved list of running, limping and missing detectors "
        f"for {caller.beamline}",
        "detectors": running,
        "running_detectors": running,
        "limping_detectors": limping,
        "missing_detectors": [name for name, modules in writing.items() if not any(modules)],
    }


def _entries(site: Site, caller: Caller) -> tuple[DetectorEntry, ...]:
    try:
        return detectors_of(site, caller.beamline)
    except ValidationError:
        return ()  # only the documented dialect raises it here: a stranger gets empty lists


DAP_CONFIG = f"{BUFFER}/dap/config"
SCRIPTS = f"{BUFFER}/dap/custom_dap_scripts"
CALL_LIMIT = 0.1
"""Seconds a script may take for one image."""


def dap_file(name: str) -> str:
    """Return the file of a detector's settings."""
    return f"{DAP_CONFIG}/pipeline_parameters.{name}.json"


def get_dap_settings(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return the settings."""
    name = detector_name(site, request, caller)
    settings = site.tree.read_json(_existing(site, name))
    message = f"successfully retrieved DAP settings for {name}"
    return site.sends_current({"message": message, "parameters": settings}, {"message": settings})


def set_dap_settings(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Merge settings; nothing is deleted and no type checked."""
    current = site.dialect == "current"
    name = detector_name(site, request, caller)
    path = dap_file(name)
    if current and not site.tree.exists(path):
        site.tree.make(DAP_CONFIG)
        site.tree.write_json(path, {})
    settings = site.tree.read_json(_existing(site, name))
    changed = {
        key: [settings.get(key), value]
        for key, value in request.get("parameters", {}).items()
        if settings.get(key) != value or not (current or key in settings)
    }
    if changed:
        site.tree.make(f"{DAP_CONFIG}/backup")
        backup = f"{DAP_CONFIG}/backup/pipeline_parameters.{name}.json.{stamp(site)}"
        site.tree.write_json(backup, settings)
        site.tree.write_json(path, settings | {key: new for key, (_, new) in changed.items()})
    message = f"successfully changed DAP settings for {name}"
    return site.sends_current({"message": message, "changed_parameters": changed}, {"message": changed})


def upload_custom_dap_script(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Check and store a script. It is read, never run: long sleeps and endless loops count as too slow."""
    beamline, name, code = caller.beamline, request["name"], request["code"]
    directory = posixpath.dirname(name)
    if directory:
        raise ValueError(f'name "{name}" contains directory information "{directory}"')
    stem = name.removesuffix(".py")
    script = ast.parse(code, f"{stem}.py")
    _check_imports(script)
    names = _names(script)
    called = next((known for known in ("proc", stem) if known in names), None)
    if called is None:
        raise AttributeError(f'module "{stem}" contains neither "proc" nor "{stem}" function')
    if _seconds(names[called]) >= CALL_LIMIT:
        raise TimeoutError(f"function call timed out (>{CALL_LIMIT}s): {called}({{}}, image, mask)")
    folder = f"{SCRIPTS}/{beamline}"
    site.tree.make(folder)
    site.tree.write_text(f"{folder}/{stem}.py", code)
    return {"message": f'successfully uploaded custom DAP script "{beamline}/{stem}.py"'}


def _existing(site: Site, name: str) -> str:
    path = dap_file(name)
    if not site.tree.exists(path):
        raise ValidationError(
            f"DAP config file {path} does not exist", "dap parameters file is not existing, contact support"
        )
    return path


def _check_imports(script: ast.Module) -> None:
    """Refuse a script that imports what is not installed; inside functions nobody would notice."""
    for node in script.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            if importlib.util.find_spec(name.split(".")[0]) is None:
                raise ModuleNotFoundError(f"No module named {name!r}")


def _names(script: ast.Module) -> dict[str, ast.AST]:
    """Return what the script defines, by name."""
    names: dict[str, ast.AST] = {}
    for node in script.body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign):
            names |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
    return names


def _seconds(function: ast.AST) -> float:
    """Return how long all written-out sleeps take, s; infinite with an endless loop."""
    total = 0.0
    for node in ast.walk(function):
        match node:
            case ast.While(test=ast.Constant(value=True)):
                if not any(isinstance(inner, ast.Break | ast.Return | ast.Raise) for inner in ast.walk(node)):
                    return math.inf
            case ast.Call(
                func=ast.Name(id="sleep") | ast.Attribute(attr="sleep"),
                args=[ast.Constant(value=int() | float() as seconds)],
            ):
                total += seconds
    return total

"""Calls about lists and files: PVs, users' files, the data acquisition's processing."""

from __future__ import annotations

import ast
import importlib.util
import math
import posixpath
import shutil
from pathlib import PurePosixPath
from typing import Any

from ...wire.broker import BEAMLINES, Dialect, padded, raw_directory
from .beamline import ValidationError, required
from .detector_calls import detector_name
from .hardware import BUFFER
from .runs import PGroup, make_directory
from .site import Caller, Site

_STAMPS = {"current": "%Y-%m-%d_%H:%M:%S", "documented": "%d-%b-%Y_%H:%M:%S"}


def config_directory(dialect: Dialect) -> str:
    """Return where the services keep their configurations."""
    return f"/home/{'svcusr-sfdaq' if dialect == 'current' else 'dbe'}/service_configs"


def config_file(dialect: Dialect, beamline: str | None) -> str:
    """Return the configuration of a beamline's epics buffer."""
    return f"{config_directory(dialect)}/sf.{beamline}.epics_buffer.json"


def stamp(site: Site) -> str:
    """Return the time as it stands in the names of backup files."""
    return site.delays.now().strftime(_STAMPS[site.dialect])


def get_pvlist(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return the list."""
    if site.dialect == "documented":
        try:
            beamline = caller.beamline
        except ValidationError:
            beamline = None
        path = config_file(site.dialect, beamline)
        if not site.tree.exists(path):
            return {"status": f"failure, epics config file not exist for this beamline {beamline}"}
        return {"status": None, "pv_list": site.tree.read_json(path)["pv_list"]}
    path = _existing_config(site, caller.beamline)
    message = f"successfully retrieved list of PVs for {caller.beamline}"
    return {"message": message, "pv_list": site.tree.read_json(path)["pv_list"]}


def set_pvlist(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Replace the list; types are not checked."""
    if site.dialect == "current":
        required(request, "pv_list")
    beamline = caller.beamline
    path = _existing_config(site, beamline)
    pvs = list(dict.fromkeys(request["pv_list"] if site.dialect == "current" else request.get("pv_list", [])))
    config = {"pulse_id_pv": _pulse_id_pv(site, beamline, path), "pv_list": pvs}
    directory, name = path.rsplit("/", 1)
    backup = (
        site.tree.remote(site.tree.make(f"{directory}/backup")) if site.dialect == "current" else directory
    )
    site.tree.write_json(path, config)
    site.tree.write_json(f"{backup}/{name}.{stamp(site)}", config)
    return site.sends_current(
        {"message": f"successfully changed list of PVs for {beamline}", "pv_list": pvs}, {"message": pvs}
    )


def _pulse_id_pv(site: Site, beamline: str, path: str) -> str:
    """Return what stays beside the list; in 2023 it was Alvra's for every beamline."""
    if site.dialect == "documented":
        return BEAMLINES["alvra"].pulse_id_pv
    return site.tree.read_json(path).get("pulse_id_pv", BEAMLINES[beamline].pulse_id_pv)


def _existing_config(site: Site, beamline: str) -> str:
    path = config_file(site.dialect, beamline)
    if not site.tree.exists(path):
        raise ValidationError(
            f"epics buffer config file {path} does not exist for beamline {beamline}",
            f"failure, epics config file not exist for this beamline {beamline}",
        )
    return path


def copy_user_files(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Copy files into ``aux/`` of a run; one that fails does not stop the others."""
    current = site.dialect == "current"
    raw = _open_pgroup(site, request, caller) if current else _open_pgroup_documented(site, request, caller)
    target = f"{_run_directory(site, raw, request['run_number'])}/aux"
    make_directory(site.tree, target)
    files = request.get("files", [])
    if current:
        files = sorted(set(files))
    failed = {file: reason for file in files if (reason := _copy(site, file, target))}
    copied = {file: _destination(file, target) for file in files if file not in failed}
    if not current:
        return {
            "message": "user file copy finished, check error_files list",
            "destination_file_path": [copied[file] for file in files if file in copied],
            "error_files": [file for file in files if file in failed],
        }
    return {
        "status": "error" if failed else "ok",
        "message": 'copying user file(s) finished with errors, check "error_files"'
        if failed
        else "copying user file(s) finished successfully",
        "destination_files": copied,
        "error_files": failed,
    }


def _open_pgroup(site: Site, request: Any, caller: Caller) -> str:
    """Return the pgroup's ``raw/``; its ``run_info/`` is made where there is none."""
    required(request, "pgroup", "run_number")
    pgroup = PGroup(site.tree, caller.beamline, request["pgroup"])
    pgroup.make_run_info()
    pgroup.check_open("already ")
    return pgroup.raw


def _open_pgroup_documented(site: Site, request: Any, caller: Caller) -> str:
    """Return the pgroup's ``raw/``, which need not be there: then no run is."""
    required(request, "pgroup")
    raw = raw_directory(caller.beamline, request["pgroup"])
    if site.tree.exists(raw):
        PGroup(site.tree, caller.beamline, request["pgroup"]).check_open()
    required({key: value for key, value in request.items() if value is not None}, "run_number")
    return raw


def _run_directory(site: Site, raw: str, run_number: Any) -> str:
    shown = padded(run_number)  # a string is filled up on the right: "3" looks for run 3000
    runs = sorted(site.tree.local(raw).glob(f"run{shown}*"))
    if not runs:
        raise ValidationError(
            f"run {shown} does not exist in this pgroup", f"no such run {run_number} in the pgroup"
        )
    return site.tree.remote(runs[0])


def _destination(file: str, target: str) -> str:
    return f"{target}/{PurePosixPath(file).name}"


def _copy(site: Site, file: str, target: str) -> str:
    """Copy one file and return why it could not be copied; empty if it was."""
    if not site.tree.exists(file):
        return f'file "{file}" does not exist'
    source_group, target_group = site.tree.group_id(file), site.tree.group_id(target)
    if source_group != target_group:
        return f'group ID mismatch for file "{file}": source {source_group} vs. target {target_group}'
    destination = _destination(file, target)
    if not site.tree.local(file).is_file():
        return f"[Errno 21] Is a directory: {file!r}"
    if PurePosixPath(file) == PurePosixPath(destination):
        return f"{file!r} and {destination!r} are the same file"
    shutil.copyfile(site.tree.local(file), site.tree.local(destination))
    return ""


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
    name = detector_name(site, request, caller, *(["parameters"] if current else []))
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
    required(request, "name", "code")
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
        if isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and node.test.value:
            if not any(isinstance(inner, ast.Break | ast.Return | ast.Raise) for inner in ast.walk(node)):
                return math.inf
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "sleep" and isinstance(node.args[0].value, int | float):
                total += node.args[0].value
    return total

"""Settings of the online analysis, and its custom scripts (contract sections 10.3, 10.4)."""

from __future__ import annotations

import ast
import importlib.util
import math
import posixpath
from typing import Any

from .hardware import BUFFER
from .pvlist import stamp
from .refusals import ValidationError, required
from .settings import detector_name
from .site import Caller, Site

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

"""copy_user_files (contract section 10.2)."""

from __future__ import annotations

import shutil
from pathlib import PurePosixPath
from typing import Any

from ...wire.broker import padded, raw_directory
from .pgroups import PGroup, make_directory
from .refusals import ValidationError, required
from .site import Caller, Site


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

"""copy_user_files (contract section 10.2)."""

from __future__ import annotations

import shutil
from pathlib import PurePosixPath
from typing import Any

from .pgroups import PGroup
from .refusals import ValidationError, required
from .site import Caller, Site


def copy_user_files(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Copy files into ``aux/`` of a run; one that fails does not stop the others."""
    required(request, "pgroup", "run_number")
    pgroup = PGroup(site.tree, caller.beamline, request["pgroup"])
    pgroup.check_open("already ")
    run_number, files = request["run_number"], request.get("files", [])
    directory = _run_directory(site, pgroup, run_number)
    target = f"{directory}/aux"
    site.tree.make(target)
    copied, failed = {}, {}
    for file in sorted(set(files)) if site.dialect == "current" else dict.fromkeys(files):
        reason = _reason_against(site, file, target)
        if reason:
            failed[file] = reason
        else:
            destination = f"{target}/{PurePosixPath(file).name}"
            shutil.copyfile(site.tree.local(file), site.tree.local(destination))
            copied[file] = destination
    if site.dialect == "documented":
        return {
            "message": "user file copy finished, check error_files list",
            "destination_file_path": list(copied.values()),
            "error_files": list(failed),
        }
    return {
        "status": "error" if failed else "ok",
        "message": 'copying user file(s) finished with errors, check "error_files"'
        if failed
        else "copying user file(s) finished successfully",
        "destination_files": copied,
        "error_files": failed,
    }


def _run_directory(site: Site, pgroup: PGroup, run_number: Any) -> str:
    padded = f"{run_number:04}"  # a string is filled up on the right: "3" looks for run 3000
    runs = sorted(site.tree.local(pgroup.raw).glob(f"run{padded}*"))
    if not runs:
        raise ValidationError(
            f"run {padded} does not exist in this pgroup", f"no such run {run_number} in the pgroup"
        )
    return site.tree.remote(runs[0])


def _reason_against(site: Site, file: str, target: str) -> str:
    if not site.tree.exists(file):
        return f'file "{file}" does not exist'
    if not site.tree.local(file).is_file():
        return f'"{file}" is not a file'
    source_group, target_group = site.tree.group_id(file), site.tree.group_id(target)
    if source_group != target_group:
        return f'group ID mismatch for file "{file}": source {source_group} vs. target {target_group}'
    return ""

"""Folders as the service sees them: mapped to this machine, hidden from the writer's user."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from ...wire.std_daq import OUTPUT_FILE
from .driver import ServiceError


def check_path(path: str) -> str:
    """Return `path` if the service takes it, whether or not the folder is there; ServiceError otherwise."""
    if not path.startswith("/"):
        raise ServiceError(f'Invalid output_file={path}. Path must be absolute - starts with "/".')
    if not OUTPUT_FILE.match(path):
        raise ServiceError(f"Invalid output_file={path}. Must be a valid posix path.")
    return path


class Folders:
    """Translate and judge the folders of requests.

    Parameters
    ----------
    mapping : dict
        Folder in requests to folder on this machine.
    """

    def __init__(self, mapping: Mapping[str, str]):
        self._mapping = dict(mapping)

    def local(self, path: str) -> str:
        """Return the path on this machine."""
        for outside, inside in self._mapping.items():
            if path == outside or path.startswith(outside.rstrip("/") + "/"):
                return inside + path[len(outside.rstrip("/")) :]
        return path

    def exists(self, folder: str, user_id: int) -> bool:
        """Tell whether `user_id` can see the folder; below 1 it is the user of the service."""
        local = self.local(folder)
        if not os.path.isdir(local):
            return False
        return user_id < 1 or all(_may_enter(parent, user_id) for parent in _parents(local))


def _parents(path: str):
    while path != (path := os.path.dirname(path)):
        yield path


def _may_enter(folder: str, user_id: int) -> bool:
    info = os.stat(folder)
    bit = stat.S_IXUSR if info.st_uid == user_id else stat.S_IXOTH
    return bool(info.st_mode & bit)

"""Folders as the service sees them: mapped to this machine, hidden from the writer's user."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from ...wire.std_daq import OUTPUT_FILE


class ServiceError(Exception):
    """An error inside the service; its text is the message of the reply."""


def check_path(path: str) -> str:
    """Return `path` if the service takes it, whether or not the folder is there; ServiceError otherwise."""
    if not path.startswith("/"):
        raise ServiceError(f'Invalid output_file={path}. Path must be absolute - starts with "/".')
    if not OUTPUT_FILE.match(path):
        raise ServiceError(f"Invalid output_file={path}. Must be a valid posix path.")
    return path


def is_below(path: str, roots: Sequence[str]) -> bool:
    """Tell whether a path of this machine, all links followed, lies below one of `roots`."""
    real = os.path.realpath(path)
    return any(os.path.commonpath([real, os.path.realpath(root)]) == os.path.realpath(root) for root in roots)


class Folders:
    """Translate and judge the folders of requests.

    Parameters
    ----------
    mapping : dict
        Folder in requests to folder on this machine.
    writable : sequence of str
        Below these, and the folders of `mapping`, files are written; all else is not there for the service.
    """

    def __init__(self, mapping: Mapping[str, str], writable: Sequence[str] = ()):
        self._mapping = dict(mapping)
        self.writable = (*writable, *self._mapping.values())

    def local(self, path: str) -> str:
        """Return the path on this machine."""
        for outside, inside in self._mapping.items():
            if path == outside or path.startswith(outside.rstrip("/") + "/"):
                return inside + path[len(outside.rstrip("/")) :]
        return path

    def missing(self, folder: str, user_id: int) -> str | None:
        """Return what the service says of a folder that `user_id` cannot see; None if it can."""
        local = self.local(folder)
        words = f"Output file folder {folder} does not exist. Please create it first."
        if os.path.isdir(local) and not is_below(local, self.writable):
            return (
                f"{words} (It does, but this simulated DAQ writes below {', '.join(self.writable)} only; "
                "others are named when it is started: std_daq_writable, --writable)"
            )
        return None if self.exists(folder, user_id) else words

    def exists(self, folder: str, user_id: int) -> bool:
        """Tell whether `user_id` can see the folder; below 1 it is the user of the service."""
        local = self.local(folder)
        if not os.path.isdir(local):
            return False
        return user_id < 1 or all(
            _may(stat.S_IXUSR, stat.S_IXOTH, parent, user_id) for parent in _parents(local)
        )


def may_write(folder: str, user_id: int) -> bool:
    """Tell whether `user_id` can create files in a folder of this machine; below 1 nobody is asked."""
    return user_id < 1 or _may(stat.S_IWUSR | stat.S_IXUSR, stat.S_IWOTH | stat.S_IXOTH, folder, user_id)


def _parents(path: str):
    while path != (path := os.path.dirname(path)):
        yield path


def _may(as_owner: int, as_other: int, folder: str, user_id: int) -> bool:
    info = os.stat(folder)
    bits = as_owner if info.st_uid == user_id else as_other
    return info.st_mode & bits == bits

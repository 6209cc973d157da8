"""File names from a template, never one that exists."""

from __future__ import annotations

import contextlib
import os
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ...errors import RequestError
from ...wire.std_daq import check_output_file

DEFAULT_TEMPLATE = "{name}_{run_id}.h5"


class PathMaker:
    """Paths of one device.

    Parameters
    ----------
    directory : str
        On the DAQ's hosts; ``{...}`` in it are filled in as in the template.
    template : str
        E.g. ``"{pgroup}/run{run_number:04d}/{scan_id:05d}_{point:04d}.h5"``. Always there: ``name``,
        ``point`` (counted per staging) and ``run_id``.
    fields : Mapping or callable
        The other values, or a function that returns them; asked for every file.
    mounted : Mapping
        Folder on the DAQ's hosts to folder on this machine; others look the same on both.
    """

    def __init__(
        self,
        directory: str,
        template: str,
        fields: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        mounted: Mapping[str, str],
    ):
        self._template = str(PurePosixPath(str(directory)) / template)
        self._fields, self._mounted = fields, dict(mounted)
        self._given: set[str] = set()

    def next(self, makes: Callable[[str], Sequence[str]] = lambda path: (path,), **values: Any) -> str:
        """Return a path on the DAQ's hosts that no file has; its folder is made where this machine sees it.

        Where it does not, nobody can look whether a name is free: then it always contains the run id. `makes`
        returns the paths of all files that an acquisition of a name makes, `values` are for the template.
        RequestError if the template wants a value that is not there, if a value leads out of the folder, or
        if the path breaks the DAQ's rule.
        """
        fields = self._fields() if callable(self._fields) else self._fields
        known = {**fields, **values}
        wanted = {name for _, name, _, _ in string.Formatter().parse(self._template) if name}
        if missing := sorted(wanted - set(known)):
            raise RequestError("template", self._template, f"fields out of {sorted(known)}, not {missing}")
        try:
            path = check_output_file(self._template.format(**known))
        except (ValueError, TypeError) as exc:
            if isinstance(exc, RequestError):
                raise
            raise RequestError("template", self._template, f"formats that fit {known} ({exc})") from exc
        if path.split("/").count("..") > self._template.split("/").count(".."):  # brought by a value
            values = {name: known[name] for name in sorted(wanted)}
            raise RequestError(
                "fields of the template", values, f"no '..' in {self._template}; it gives {path}"
            )
        folder = os.path.dirname(self.local(path))
        if os.path.isdir("/" + folder.lstrip("/").split("/", 1)[0]):  # a tree that this machine has
            with contextlib.suppress(OSError):  # not ours to make; the DAQ says what it misses
                os.makedirs(folder, exist_ok=True)
        if not os.path.isdir(folder) and "run_id" not in wanted:
            path = _with_suffix(path, values["run_id"])
        path = self._free(path, makes)
        self._given.add(path)
        return path

    def local(self, path: str) -> str:
        """Return where this machine sees a path of the DAQ's hosts."""
        for outside, inside in self._mounted.items():
            prefix = outside.rstrip("/") + "/"
            if path.startswith(prefix):
                return os.path.join(inside, path[len(prefix) :])
        return path

    def _free(self, path: str, makes: Callable[[str], Sequence[str]]) -> str:
        number, free = 0, path
        while free in self._given or any(os.path.lexists(self.local(file)) for file in makes(free)):
            number += 1
            free = _with_suffix(path, number)
        return free


def _with_suffix(path: str, suffix: object) -> str:
    stem, dot, extension = path.rpartition(".")
    return f"{stem}_{suffix}{dot}{extension}"

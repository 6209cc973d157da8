"""The file system the servers see: ``/sf``, ``/gpfs`` and ``/home`` in a directory of our own."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

ROOTS = ("sf", "gpfs", "home")
"""Mount points that always exist; nothing of the host itself is ever read or written."""


class Tree:
    """Absolute paths of the servers, kept below one directory.

    Parameters
    ----------
    directory : Path
        Made if absent, with one folder per mount point.
    """

    def __init__(self, directory: Path):
        self.directory, self._real = directory, Path(os.path.realpath(directory))
        self._roots: set[str] = set()
        for root in ROOTS:
            self.mount(root)
        self.group_ids: dict[str, int] = {}
        self.default_group: int | None = None

    @property
    def sf(self) -> Path:
        """The folder that stands for ``/sf``."""
        return self.directory / "sf"

    def mount(self, root: str) -> None:
        """Add a mount point, empty unless it was there before; `root` without slashes."""
        self._roots.add(root)
        (self.directory / root).mkdir(parents=True, exist_ok=True)

    def local(self, path: str) -> Path:
        """Return where a server's path lies; FileNotFoundError outside of the mount points.

        A link that leads out of them is outside too: nothing a client names is written or read there.
        """
        parts = PurePosixPath(path).parts
        if parts[:1] == ("/",) and len(parts) > 1 and parts[1] in self._roots and ".." not in parts:
            local = self.directory.joinpath(*parts[1:])
            if Path(os.path.realpath(local)).is_relative_to(self._real):
                return local
        raise FileNotFoundError(2, "No such file or directory", path)

    def remote(self, path: Path) -> str:
        """Return the server's name of a local path."""
        return str(PurePosixPath("/", *path.relative_to(self.directory).parts))

    def exists(self, path: str) -> bool:
        """Say whether a file or directory is there."""
        try:
            return self.local(path).exists()
        except FileNotFoundError:
            return False

    def group_id(self, path: str) -> int:
        """Return the group of a file, or what a test says it is."""
        if path in self.group_ids:
            return self.group_ids[path]
        return self.local(path).stat().st_gid if self.default_group is None else self.default_group

    def make(self, path: str) -> Path:
        """Make a directory with its parents, and return where it lies."""
        local = self.local(path)
        local.mkdir(parents=True, exist_ok=True)
        return local

    def read_text(self, path: str) -> str:
        """Return the content of a file."""
        return self.local(path).read_text()

    def write_text(self, path: str, text: str) -> None:
        """Write a file; its directory must exist."""
        self.local(path).write_text(text)

    def append_text(self, path: str, text: str) -> None:
        """Append to a file."""
        with self.local(path).open("a") as file:
            file.write(text)

    def read_json(self, path: str) -> Any:
        """Return the content of a JSON file."""
        return json.loads(self.read_text(path))

    def write_json(self, path: str, content: Any, *, sort_keys: bool = False) -> None:
        """Write a JSON file."""
        self.write_text(path, json.dumps(content, indent=4, sort_keys=sort_keys))

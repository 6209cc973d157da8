"""The writers of the websocket generation: each has a file of its own, each can die on its own."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable

from .driver import Image
from .folders import Folders, is_below, may_write
from .websocket_files import ImageFile, MetadataFile

logger = logging.getLogger(__name__)


class Writer:
    """One writer process.

    Parameters
    ----------
    name : str
        What stands between prefix and ``.h5``: its number, or ``Meta``.
    open_file : callable
        Makes the file of a path.
    folders : Folders
    user_id : int
        Who must be able to write to the folder; below 1 nobody is asked.
    on_death : callable, optional
        A writer with it dies of a file that it cannot create, and calls it with itself; others refuse.

    Attributes
    ----------
    alive : bool
    """

    def __init__(
        self,
        name: str,
        open_file: Callable[[str], ImageFile | MetadataFile],
        folders: Folders,
        user_id: int = 0,
        on_death: Callable[[Writer], object] | None = None,
    ):
        self.name, self.alive = name, True
        self._open_file, self._folders, self._user_id = open_file, folders, user_id
        self._on_death = on_death
        self._file: ImageFile | MetadataFile | None = None
        self._lock = threading.Lock()

    def create(self, folder: str, prefix: str) -> bool:
        """Create a file in place of the one that is open, if any; tell whether it could."""
        self.save()
        path = self._folders.local(f"{folder}/{prefix}{self.name}.h5")
        try:
            if not is_below(path, self._folders.writable) or not may_write(
                os.path.dirname(path), self._user_id
            ):
                raise PermissionError(path)
            with self._lock:
                self._file = self._open_file(path)
        except (OSError, ValueError) as exc:
            logger.debug("writer %s: %s", self.name, exc)
            if self._on_death is not None:
                self.die()
                self._on_death(self)
            return False
        return True

    def write(self, image: Image) -> None:
        """Write an image; without a file, or room for it, it dies."""
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None:
                self._file.write(image)
                return
        self.die()

    def save(self) -> None:
        """Close the file, if one is open."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                with contextlib.suppress(OSError):  # the disk is full
                    file.close()

    def die(self) -> None:
        """Be killed: the file is not readable any more."""
        with self._lock:
            self.alive = False
            file, self._file = self._file, None
            if file is not None:
                file.abandon()

    def revive(self) -> None:
        """Be started again, with no file."""
        self.alive = True

"""Where this machine finds the filewriter's files: fetched into a folder of its own, or on a mounted one."""

from __future__ import annotations

import glob
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from ...clients import SimplonClient
from ...errors import Discarded, FileFormatError, RequestError
from ...files.eiger_file import count_images
from ...files.storage import check_folder, writing

logger = logging.getLogger(__name__)


def data_file(series: str, n: int) -> str:
    """Return the name of the `n`-th data file of a series, from 1 on."""
    return f"{series}_data_{n:06d}.h5"


def master_file(series: str) -> str:
    """Return the name of the file that has what holds for all images of a series."""
    return f"{series}_master.h5"


class FileFolder(ABC):
    """A folder with the unit's files.

    Parameters
    ----------
    client : SimplonClient
        Of the unit.
    path : Path
        The folder.
    """

    def __init__(self, client: SimplonClient, path: Path):
        self._client, self.path = client, path

    @abstractmethod
    def check(self) -> None:
        """Raise unless the folder can be used."""

    @abstractmethod
    def is_ready(self, name: str, n_images: int) -> bool:
        """Whether a file of `n_images` is whole where it can be fetched from."""

    @abstractmethod
    def fetch(
        self,
        name: str,
        stop: threading.Event,
        on_progress: Callable[[int, int], object],
        patience: float,
    ) -> Path:
        """Return the path of a file that is ready."""

    @abstractmethod
    def drop(self, series: str, path: Path) -> None:
        """Say that no point needs the file."""

    def tidy(self, series: str) -> None:
        """Remove what nobody needs of a series that is over."""
        return None

    @property
    def why(self) -> str:
        """Why the file that was asked for last is not ready; empty if it is simply not there."""
        return ""


class Downloads(FileFolder):
    """Files fetched over HTTP."""

    def check(self) -> None:
        """Raise `StorageError` if no file can be made there."""
        check_folder(self.path)

    def is_ready(self, name: str, n_images: int) -> bool:
        """Whether the unit has it: a file is there once it is whole."""
        return self._client.files.size(name) is not None

    def fetch(
        self,
        name: str,
        stop: threading.Event,
        on_progress: Callable[[int, int], object],
        patience: float,
    ) -> Path:
        """Download a file, and return its path."""
        try:
            return self._client.files.download(
                name, self.path, patience=patience, on_progress=on_progress, stop=stop, writing=writing
            )
        except Discarded:
            self._client.files.part_of(name, self.path).unlink(missing_ok=True)  # nobody goes on with it
            raise

    def drop(self, series: str, path: Path) -> None:
        """Remove the copy of a file; the unit's stays."""
        path.unlink(missing_ok=True)
        self.tidy(series)

    def tidy(self, series: str) -> None:
        """Remove the copy of a master file whose images are not here."""
        if not any(self.path.glob(f"{glob.escape(series)}_data_*.h5")):
            (self.path / master_file(series)).unlink(missing_ok=True)


class MountedFolder(FileFolder):
    """Files that the unit, or what serves its memory, has in a folder that this machine sees."""

    def __init__(self, client: SimplonClient, path: Path):
        super().__init__(client, path)
        self._why = ""
        self._last: tuple[str, int] | None = None

    def check(self) -> None:
        """Raise `RequestError` if there is no such folder."""
        if not self.path.is_dir():
            raise RequestError("files", str(self.path), "a folder that this machine sees")

    def is_ready(self, name: str, n_images: int) -> bool:
        """Whether it is as large as the unit says; or, where the unit says nothing, holds its images."""
        path, self._why = self.path / name, ""
        try:
            n_bytes = path.stat().st_size
        except FileNotFoundError:
            self._why = f"{path} is not there"
            return False
        size = self._client.files.size(name)
        if size is not None:
            self._why = "" if n_bytes == size else f"{path} has {n_bytes} bytes, the unit's has {size}"
            return n_bytes == size
        grows, self._last = self._last != (name, n_bytes), (name, n_bytes)
        try:
            n_found = count_images(path)
        except FileFormatError as exc:
            self._why = str(exc)
            return False
        self._why = f"{path} grows" if grows else f"{path} holds {n_found} images of {n_images}"
        return not grows and n_found >= n_images

    def fetch(
        self,
        name: str,
        stop: threading.Event,
        on_progress: Callable[[int, int], object],
        patience: float,
    ) -> Path:
        """Return the path of a file."""
        return self.path / name

    def drop(self, series: str, path: Path) -> None:
        """Say so in the log: the file is the unit's, and stays."""
        logger.warning("%s belongs to no point", path)

    @property
    def why(self) -> str:
        """Why the file that was asked for last is not ready."""
        return self._why

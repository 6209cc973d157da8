"""The filewriter's files: fetched into a folder of this machine, or found on a mounted one."""

from __future__ import annotations

import glob
import logging
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ...clients import SimplonClient
from ...errors import Discarded, FileFormatError, RequestError, SfdaqError
from ...files.eiger_file import count_images
from ...files.storage import check_folder, writing
from ...limits import Limit
from .._source import Progress
from .._worker import JOIN_TIMEOUT, Worker

logger = logging.getLogger(__name__)

WAIT = 0.25
"""s between two looks, at a download or for a file, at the most."""


def data_file(series: str, n: int) -> str:
    """Return the name of the `n`-th data file of a series, from 1 on."""
    return f"{series}_data_{n:06d}.h5"


def master_file(series: str) -> str:
    """Return the name of the file that has what holds for all images of a series."""
    return f"{series}_master.h5"


class FileFolder:
    """A folder for the unit's files, which are fetched over HTTP.

    `why` says why the file that was asked for last is not ready; empty if it is simply not there.
    """

    def __init__(self, client: SimplonClient, path: Path, name: str):
        self._client, self.path, self.why = client, path, ""
        self._fetching = Worker(f"{name} files")

    def check(self) -> None:
        """Raise `StorageError` if no file can be made there."""
        check_folder(self.path)

    def is_ready(self, name: str, n_images: int) -> bool:
        """Whether the unit has a file: it is there once it is whole, with its `n_images`."""
        return self._client.files.size(name) is not None

    def has(self, name: str) -> bool:
        """Whether a file is there, whole or not; True as well where that is not known."""
        try:
            return self._client.files.size(name) is not None
        except SfdaqError:
            return True

    def fetch(self, name: str, **how: Any) -> Path:
        """Download a file that is ready, `how` as `FileFetcher.download` says; return its path."""
        try:
            return self._client.files.download(name, self.path, writing=writing, **how)
        except Discarded:
            self._client.files.part_of(name, self.path).unlink(missing_ok=True)  # nobody goes on with it
            raise

    def bring(
        self, name: str, series: str, stop: threading.Event, patience: float
    ) -> Generator[Progress, None, Path | None]:
        """Have a file that is ready here: yield progress, and return its path; None if it was given up."""
        outcome: list[Path | Exception] = []
        there, told, wanted = [0, 0], 0, False

        def on_progress(n_bytes: int, size: int) -> None:
            there[:] = n_bytes, size

        def fetch() -> None:
            try:
                outcome.append(self.fetch(name, stop=stop, on_progress=on_progress, patience=patience))
            except Exception as exc:
                outcome.append(exc)

        ended = self._fetching.do(fetch)
        try:
            while not ended.wait(WAIT):
                if stop.is_set():
                    self._client.files.interrupt()
                elif there[0] > told:
                    told = there[0]
                    yield Progress(0, f"{name}: {there[0]} of {there[1]} bytes are here")
            wanted = not stop.is_set()
        finally:
            limit = Limit(JOIN_TIMEOUT)
            while not ended.is_set() and not limit.reached():  # the acquisition was given up
                stop.set()
                self._client.files.interrupt()
                limit.wait(ended, WAIT)
            if not wanted and outcome and isinstance(outcome[0], Path):
                self.drop(series, outcome[0])
        if not wanted:
            return None
        (found,) = outcome
        if isinstance(found, Exception):
            raise found
        return found

    def end(self) -> None:
        """Let the thread go that fetches. Safe twice."""
        self._fetching.end()

    def drop(self, series: str, path: Path) -> None:
        """Remove the copy of a file that no point needs; the unit's stays."""
        path.unlink(missing_ok=True)
        self.tidy(series)

    def tidy(self, series: str) -> None:
        """Remove the copy of a master file whose images are not here, of a series that is over."""
        if not any(self.path.glob(f"{glob.escape(series)}_data_*.h5")):
            (self.path / master_file(series)).unlink(missing_ok=True)


class MountedFolder(FileFolder):
    """Files that the unit, or what serves its memory, has in a folder that this machine sees."""

    _last: tuple[str, int] | None = None

    def check(self) -> None:
        """Raise `RequestError` if there is no such folder."""
        if not self.path.is_dir():
            raise RequestError("files", str(self.path), "a folder that this machine sees")

    def is_ready(self, name: str, n_images: int) -> bool:
        """Whether it is as large as the unit says; or, where the unit says nothing, holds its images."""
        path, self.why = self.path / name, ""
        try:
            n_bytes = path.stat().st_size
        except FileNotFoundError:
            self.why = f"{path} is not there"
            return False
        size = self._client.files.size(name)
        if size is not None:
            self.why = "" if n_bytes == size else f"{path} has {n_bytes} bytes, the unit's has {size}"
            return n_bytes == size
        grows, self._last = self._last != (name, n_bytes), (name, n_bytes)
        try:
            n_found = count_images(path)
        except FileFormatError as exc:
            self.why = str(exc)
            return False
        self.why = f"{path} grows" if grows else f"{path} holds {n_found} images of {n_images}"
        return not grows and n_found >= n_images

    def has(self, name: str) -> bool:
        """Whether it is in the folder, as large as it may be."""
        return (self.path / name).exists()

    def fetch(self, name: str, **how: Any) -> Path:
        """Return the path of a file."""
        return self.path / name

    def drop(self, series: str, path: Path) -> None:
        """Say so in the log: the file is the unit's, and stays."""
        logger.warning("%s belongs to no point", path)

    def tidy(self, series: str) -> None:
        """Leave all as it is."""

"""The filewriter's files: waited for, and fetched into a folder of this machine or found on a mounted one."""

from __future__ import annotations

import glob
import logging
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from ...clients import SimplonClient
from ...errors import (
    Discarded,
    FileFormatError,
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
)
from ...files.eiger_file import count_images
from ...files.storage import check_folder, writing
from ...limits import Limit
from ...wire.simplon import DetectorState
from .._source import Progress
from .._worker import JOIN_TIMEOUT, Worker
from ._control import EigerControl
from ._source import SoftwareTriggers

logger = logging.getLogger(__name__)

WAIT = 0.25
"""s between two looks, at a download or for a file, at the most."""

SOON = 0.02
"""s between the first two looks after an exposure."""

GRACE = 2.0
"""s after an exposure for a file to come, before the series is ended, which closes the last one."""


def data_file(series: str, n: int) -> str:
    """Return the name of the `n`-th data file of a series, from 1 on."""
    return f"{series}_data_{n:06d}.h5"


def master_file(series: str) -> str:
    """Return the name of the file that has what holds for all images of a series."""
    return f"{series}_master.h5"


class FileFolder:
    """A folder for the unit's files, which are fetched over HTTP.

    Parameters
    ----------
    client : SimplonClient
        Of the unit.
    path : Path
        The folder.
    name : str
        Of the device.

    Attributes
    ----------
    why : str
        Why the file that was asked for last is not ready; empty if it is simply not there.
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

    def fetch(self, name: str, **how: Any) -> Path:
        """Return the path of a file."""
        return self.path / name

    def drop(self, series: str, path: Path) -> None:
        """Say so in the log: the file is the unit's, and stays."""
        logger.warning("%s belongs to no point", path)

    def tidy(self, series: str) -> None:
        """Leave all as it is."""


class FileWait:
    """The next file of a series, and why it does not come.

    Parameters
    ----------
    control : EigerControl
    folder : FileFolder
    triggers : SoftwareTriggers or None
        Those of the exposure; None where they come from outside.
    stop : threading.Event
        Set to give up.
    timeout : float
        s from the end of the series on, and without an answer of the unit.
    longest : float
        s in which nothing changes.

    Attributes
    ----------
    over : bool
        Whether it does not come.
    ended : bool
        Whether the series was ended here.
    why : str
        What was seen then.
    """

    def __init__(
        self,
        control: EigerControl,
        folder: FileFolder,
        triggers: SoftwareTriggers | None,
        stop: threading.Event,
        *,
        timeout: float,
        longest: float,
    ):
        self._control, self._client, self._folder = control, control.client, folder
        self._triggers, self._stop, self._timeout = triggers, stop, timeout
        self._limit, self._grace, self._away = Limit(longest), Limit(GRACE), Limit(timeout)
        self._rest: Limit | None = None  # from the end of the series on
        self._seen: tuple = ()
        self._n_quiet = 0  # looks at a filewriter that was done
        self.over = self.ended = False
        self.why = ""

    def until_ready(self, name: str, n_images: int) -> Iterator[Progress]:
        """Yield progress until a file of `n_images`, or the last one of its series, is ready, or over."""
        pause, looked = SOON, Limit(WAIT)
        while not self._stop.is_set() and not self.over:
            if self._triggers is not None:
                self._triggers.check(self._control)
            if self._exposing:
                self._grace.restart()
            try:
                if self._folder.is_ready(name, n_images if self._rest is None else 1):
                    return
                if looked.left == 0:
                    looked.restart()
                    yield Progress(0, self._look())
                self._away.restart()
            except (ServiceUnreachable, ServiceTimeout, ServiceRefused) as exc:
                if self._away.reached() or (isinstance(exc, ServiceRefused) and (exc.code or 0) < 500):
                    raise
                logger.warning("%s: %s; trying again", self._control.name, exc)
            self._stop.wait(WAIT if self._exposing else pause)
            pause = min(WAIT, pause * (1 if self._exposing else 2))

    @property
    def _exposing(self) -> bool:
        return self._triggers is not None and not self._triggers.done

    def _look(self) -> str:
        """Find out whether the file can still come, now that it is not there; return what was seen."""
        state, (writer, free) = self._control.working_state(), self._writer()
        told = f"detector '{state}', filewriter '{writer}', {free} bytes free"
        if self._exposing or (state, writer, free) != self._seen:
            self._limit.restart()
        self._seen = state, writer, free
        if self._rest is not None:
            self._n_quiet += writer != "acquire"
            self.over = self._rest.reached() or (self._n_quiet > 1 and self._rest.elapsed > GRACE)
            self.why += f"; {self._folder.why}" if self.over and self._folder.why else ""
            return told
        exposed = self._triggers is not None and not self._exposing and self._grace.reached()
        if state == DetectorState.IDLE or exposed or self._limit.reached() or writer == "error":
            self.why, self._rest = told, Limit(self._timeout)
            if state != DetectorState.IDLE:
                self.ended = True  # which closes the last file
                self._client.disarm()
        return told

    def _writer(self) -> tuple[str, object]:
        """Return state and free bytes of the filewriter, as far as it tells."""
        try:
            state = str(self._client.get("filewriter", "status", "state").value)
            return state, self._client.get("filewriter", "status", "buffer_free").value
        except ServiceRefused as exc:
            if (exc.code or 0) >= 500:
                raise
            return "unknown", "unknown"

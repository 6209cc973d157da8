"""Fetch the filewriter's files: with progress, going on where a connection broke, checked by size."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from ..errors import Discarded, RequestError, ServiceRefused, ServiceTimeout, ServiceUnreachable, WireError
from ..limits import Limit
from ..wire import simplon
from ._http import Head, HttpClient, Reply

PARTIAL = ".part"
"""Ends the name of a file that is not whole yet."""

OVERLAP = 4096
"""Bytes fetched once more when a download goes on: they tell whether it is still the same file."""

PAUSE = 0.2
"""s before a download goes on."""

_PART = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class FileFetcher:
    """The files of one filewriter, over connections of their own. Safe from several threads.

    Parameters
    ----------
    url : str
        Base address, with whatever stands before the path, and user and password if there are any.
    timeout : float
        s without a byte, after which a connection is given up.
    list_path : callable
        Returns the path of the list of files.
    """

    def __init__(self, url: str, timeout: float, list_path: Callable[[], str]):
        self._http = HttpClient(url, name="SIMPLON", timeout=timeout)
        self._list_path = list_path

    def names(self) -> list[str]:
        """Return the names of the files that are there."""
        return simplon.parse_keys(self._asked("GET", self._list_path()).json())

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None if it is not there."""
        reply = self._asked("HEAD", _path_of(name), missing=True)
        if reply.code == 404:
            return None
        length = reply.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal():
            raise WireError(f"HEAD {_path_of(name)}: no Content-Length (from {self._http.url})")
        return int(length)

    def delete(self, name: str) -> None:
        """Remove a file on the unit; one that is gone already is no error."""
        self._asked("DELETE", _path_of(name), missing=True)

    def part_of(self, name: str, folder: str | Path) -> Path:
        """Return where a file is while it is not whole."""
        return Path(folder) / f"{_checked_name(name)}{PARTIAL}"

    def download(
        self,
        name: str,
        folder: str | Path,
        *,
        patience: float = 60.0,
        on_progress: Callable[[int, int], object] = lambda n_bytes, size: None,
        stop: threading.Event | None = None,
        writing: Callable[[Path], AbstractContextManager] = contextlib.nullcontext,
    ) -> Path:
        """Bring a file into a folder, and return its path there.

        It grows under its name with ``.part`` at the end, and gets its own name once it is whole and on the
        disk. A connection that breaks is made anew and goes on where it was; so does a later call that finds
        such a part, unless it is of another file.

        Parameters
        ----------
        name : str
            As in `names`.
        folder : str or Path
            Made unless it is there. A file of that name in it is an error: none is replaced.
        patience : float
            s without a new byte, after which it is given up.
        on_progress : callable
            Called with the bytes that are here, and those of the whole.
        stop : threading.Event, optional
            Gives it up once it is set; `interrupt` has that seen at once.
        writing : callable
            Context in which the disk is written to, given the path.

        Raises
        ------
        ServiceRefused
            The unit does not have it.
        WireError
            What came is not of the size that the unit tells.
        ServiceUnreachable, ServiceTimeout
            No new byte for `patience` s.
        Discarded
            `stop` was set. What is here stays as a part.
        RequestError
            The name is not that of a file, or such a file is in the folder already.
        """
        target = Path(folder) / _checked_name(name)
        if target.exists():
            raise RequestError("file", str(target), "a name that is not taken: no file is replaced")
        with writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        size = self.size(name)
        if size is None:
            raise ServiceRefused(f"GET {_path_of(name)}", url=self._http.url, said="no such file", code=404)
        partial = _Partial(self.part_of(name, folder), size, writing, on_progress)
        limit, seen = Limit(patience), -1
        while not partial.whole:
            if stop is not None and stop.is_set():
                raise Discarded(f"{self._http.url}: the download of {name} is given up")
            try:
                self._go_on(name, partial)
            except _OtherFile:
                continue
            except (ServiceUnreachable, ServiceTimeout, ServiceRefused) as exc:
                if isinstance(exc, ServiceRefused) and (exc.code or 0) < 500:
                    raise
                if partial.n_bytes > seen:
                    limit.restart()
                seen = max(seen, partial.n_bytes)
                if limit.reached():
                    raise
                (stop or threading.Event()).wait(limit.step(PAUSE))
        partial.finish(target)
        return target

    def interrupt(self) -> None:
        """Break off the requests under way: they raise at once."""
        self._http.interrupt()

    def close(self) -> None:
        """Close the connections not in use. Safe twice."""
        self._http.close()

    def _go_on(self, name: str, partial: _Partial) -> None:
        """Fetch what is missing, as far as the connection goes."""
        path = _path_of(name)

        def read(reply: Reply) -> None:
            if reply.code not in (200, 206):
                raise ServiceRefused(f"GET {path}", url=self._http.url, said=reply.text, code=reply.code)

        with partial:
            first = partial.begin()
            headers = {"Range": f"bytes={first}-"} if first else {}
            try:
                self._http.request(
                    "GET",
                    path,
                    headers=headers,
                    idempotent=True,
                    attempts=1,
                    receive=partial.receive,
                    read=read,
                )
            except Exception:
                if partial.problem is not None:
                    raise partial.problem from None
                raise
            if not partial.whole:
                raise WireError(
                    f"GET {path}: {partial.n_bytes} bytes came, {partial.size} expected, as HEAD tells "
                    f"(from {self._http.url})"
                )

    def _asked(self, method: str, path: str, *, missing: bool = False) -> Reply:
        reply = self._http.request(method, path, idempotent=True, attempts=2)
        if reply.code not in (200, 204) and not (missing and reply.code == 404):
            raise ServiceRefused(f"{method} {path}", url=self._http.url, said=reply.text, code=reply.code)
        return reply


class _OtherFile(Exception):
    """What is here is a part of another file."""


class _Partial:
    """The part of a file that is here; open inside ``with``.

    Attributes
    ----------
    n_bytes, size : int
        That are here, and of the whole.
    problem : Exception or None
        Why nothing can be written, or what came is another file.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        writing: Callable[[Path], AbstractContextManager],
        on_progress: Callable[[int, int], object],
    ):
        self.path, self.size, self._writing, self._on_progress = path, size, writing, on_progress
        self.n_bytes = path.stat().st_size if path.exists() else 0
        if self.n_bytes > size:
            self.n_bytes = 0
        self.problem: Exception | None = None
        self._checked = False
        self._known = b""

    @property
    def whole(self) -> bool:
        """Whether all of it is here, and of one file."""
        return self.n_bytes == self.size and (self._checked or not self.size)

    def __enter__(self) -> None:
        with self._writing(self.path):
            self._file = open(self.path, "r+b" if self.path.exists() else "w+b", buffering=0)  # noqa: SIM115

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def begin(self) -> int:
        """Return the byte to ask from: a little is fetched again, and compared."""
        first = max(0, self.n_bytes - OVERLAP)
        self._file.seek(first)
        self._known = self._file.read(self.n_bytes - first)
        return first

    def receive(self, head: Head) -> Callable[[memoryview], object] | None:
        """Say where the body goes: from the byte that was asked for, or from the beginning."""
        if head.status_code == 206:
            self._file.seek(self._first_of(head.headers.get("Content-Range", "")))
        elif head.status_code == 200:
            self._start_anew()
        else:
            return None
        return self._take

    def finish(self, target: Path) -> None:
        """Bring it to the disk itself, and give it its name."""
        with self._writing(self.path):
            if not self.size:
                self.path.touch()
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self.path.rename(target)

    def _first_of(self, content_range: str) -> int:
        found = _PART.fullmatch(content_range.strip())
        first = self.n_bytes - len(self._known)
        if found is None or int(found[1]) != first or int(found[3]) != self.size:
            self.problem = WireError(
                f"{self.path.name}: part {content_range[:100]!r} came, expected 'bytes {first}-"
                f"{self.size - 1}/{self.size}'"
            )
            raise self.problem
        return first

    def _start_anew(self) -> None:
        with self._writing(self.path):
            self._file.seek(0)
            self._file.truncate()
        self.n_bytes, self._known, self._checked = 0, b"", True

    def _take(self, piece: memoryview) -> None:
        try:
            piece = self._compared(piece)
            with self._writing(self.path):
                while len(piece):
                    n = self._file.write(piece)
                    self.n_bytes, piece = self.n_bytes + n, piece[n:]
            self._on_progress(self.n_bytes, self.size)
        except Exception as exc:
            self.problem = exc
            raise
        if self.n_bytes > self.size:
            self.problem = WireError(f"{self.path.name}: more than {self.size} bytes came, as HEAD tells")
            raise self.problem

    def _compared(self, piece: memoryview) -> memoryview:
        """Return what is new of a piece; with the rest not as it is here, all is fetched anew."""
        n = min(len(piece), len(self._known))
        if piece[:n] != self._known[:n]:
            self._start_anew()
            self._checked = False
            raise _OtherFile
        self._known = self._known[n:]
        self._checked = self._checked or not self._known
        if n:
            self._file.seek(n, os.SEEK_CUR)
        return piece[n:]


def _checked_name(name: str) -> str:
    """Return the name; RequestError unless it is that of a file, without a folder."""
    if not name or name in (".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise RequestError("file", name, "the name of a file, without a folder")
    return name


def _path_of(name: str) -> str:
    return f"/data/{_checked_name(name)}"

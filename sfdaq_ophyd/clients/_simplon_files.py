"""Fetch the filewriter's files: with progress, going on where a connection broke, checked by size."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path

from ..errors import Discarded, RequestError, ServiceRefused, ServiceTimeout, ServiceUnreachable, WireError
from ..limits import Limit
from ..wire import simplon
from ._http import Head, HttpClient, Reply

PARTIAL = ".part"
"""Ends the name of a file that is not whole yet."""

PAUSE = 0.2
"""s before a download goes on."""

Writing = Callable[[Path], AbstractContextManager]
OnProgress = Callable[[int, int], object]


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
        """Return the bytes of a file; None if it is not there.

        Parameters
        ----------
        name : str
            As in `names`.

        Raises
        ------
        WireError
            The unit does not tell the size.
        RequestError
            The name is not that of a file; nothing was sent.
        ServiceRefused, ServiceUnreachable, ServiceTimeout
            The unit says no, or does not answer.
        """
        reply = self._asked("HEAD", _path_of(name), missing=True)
        if reply.code == 404:
            return None
        length = reply.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal() or len(length) > 18:
            raise WireError(f"HEAD {_path_of(name)}: no Content-Length (from {self._http.url})")
        return int(length)

    def delete(self, name: str) -> None:
        """Remove a file on the unit; one that is gone already is no error.

        Parameters
        ----------
        name : str
            As in `names`.

        Raises
        ------
        RequestError
            The name is not that of a file; nothing was sent.
        ServiceRefused, ServiceUnreachable, ServiceTimeout
            The unit says no, or does not answer; the file may be gone all the same where no reply came.
        """
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
        on_progress: OnProgress = lambda n_bytes, size: None,
        stop: threading.Event | None = None,
        writing: Writing = contextlib.nullcontext,
    ) -> Path:
        """Bring a file into a folder, and return its path there.

        It grows under its name with ``.part`` at the end, and gets its own name once it is whole and on the
        disk. A connection that breaks is made anew and goes on where it was.

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
        target, partial = Path(folder) / _checked_name(name), self.part_of(name, folder)
        if target.exists():
            raise RequestError("file", str(target), "a name that is not taken: no file is replaced")
        size = self.size(name)
        if size is None:
            raise ServiceRefused(f"GET {_path_of(name)}", url=self._http.url, said="no such file", code=404)
        with writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = open(partial, "wb", buffering=0)  # noqa: SIM115
        with file:
            limit, most = Limit(patience), 0
            while file.tell() < size:
                if stop is not None and stop.is_set():
                    raise Discarded(f"{self._http.url}: the download of {name} is given up")
                try:
                    self._go_on(name, file, size, writing, on_progress)
                except (ServiceUnreachable, ServiceTimeout, ServiceRefused) as exc:
                    if isinstance(exc, ServiceRefused) and (exc.code or 0) < 500:
                        raise
                    if file.tell() > most:
                        limit.restart()
                    most = max(most, file.tell())
                    if limit.reached():
                        raise
                    (stop or threading.Event()).wait(limit.step(PAUSE))
            with writing(partial):
                os.fsync(file.fileno())
        with writing(partial):
            partial.rename(target)
        return target

    def interrupt(self) -> None:
        """Break off the requests under way: they raise at once."""
        self._http.interrupt()

    def close(self) -> None:
        """Close the connections not in use. Safe twice."""
        self._http.close()

    def _go_on(self, name: str, file: FileIO, size: int, writing: Writing, on_progress: OnProgress) -> None:
        """Fetch what is missing, as far as the connection goes."""
        path, first = _path_of(name), file.tell()
        problem: Exception | None = None

        def receive(head: Head) -> Callable[[memoryview], object] | None:
            nonlocal problem
            said, expected = head.headers.get("Content-Range", ""), f"bytes {first}-{size - 1}/{size}"
            if head.status_code == 206 and said.strip() != expected:
                problem = WireError(f"GET {path}: part {said[:100]!r} came, expected {expected!r}")
                raise problem
            if head.status_code == 200:  # all of it, whatever was asked for
                file.seek(0)
                file.truncate()
            return take if head.status_code in (200, 206) else None

        def take(piece: memoryview) -> None:
            nonlocal problem
            try:
                with writing(Path(str(file.name))):
                    while len(piece):
                        piece = piece[file.write(piece) :]
                on_progress(file.tell(), size)
                if file.tell() > size:
                    raise WireError(f"GET {path}: more than {size} bytes came, as HEAD tells")
            except Exception as exc:
                problem = exc
                raise

        def read(reply: Reply) -> None:
            if reply.code not in (200, 206):
                raise ServiceRefused(f"GET {path}", url=self._http.url, said=reply.text, code=reply.code)

        try:
            self._http.request(
                "GET",
                path,
                headers={"Range": f"bytes={first}-"} if first else {},
                idempotent=True,
                attempts=1,
                receive=receive,
                read=read,
            )
        except Exception:
            if problem is not None:
                raise problem from None
            raise
        if file.tell() != size:
            came = f"{file.tell()} bytes came, {size} expected, as HEAD tells"
            raise WireError(f"GET {path}: {came} (from {self._http.url})")

    def _asked(self, method: str, path: str, *, missing: bool = False) -> Reply:
        reply: Reply = self._http.request(method, path, idempotent=True, attempts=2)
        if reply.code not in (200, 204) and not (missing and reply.code == 404):
            raise ServiceRefused(f"{method} {path}", url=self._http.url, said=reply.text, code=reply.code)
        return reply


def _checked_name(name: str) -> str:
    """Return the name; RequestError unless it is that of a file, without a folder."""
    if not name or name in (".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise RequestError("file", name, "the name of a file, without a folder")
    return name


def _path_of(name: str) -> str:
    return f"/data/{_checked_name(name)}"

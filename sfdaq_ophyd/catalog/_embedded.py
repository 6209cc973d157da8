"""The embedded catalog: a Tiled server of our own, in a child process."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from ..errors import RequestError, ServiceUnreachable, require
from ..starting import Child, without_collection
from . import _server
from ._catalog import ANSWER_TIMEOUT, PATIENCE, Catalog

logger = logging.getLogger(__name__)


MAX_LOG = 10 * 2**20
"""Bytes of ``server.log`` at which the next start begins it anew."""

START_TIMEOUT = 60.0
"""s without a sign of progress after which a start has failed."""

HINT = (
    "A slow machine needs more: sfdaq demo --start-timeout, catalog.start_timeout in sfdaq.yaml, "
    "embedded_catalog(start_timeout=...)"
)
"""What a person does about a server that does not start in time."""


class ServerProcess(Child):
    """A Tiled server in a child process, on loopback, with a random API key.

    A child, so that serving data takes no time from the RunEngine. It is in a session of its own:
    Ctrl-C in the terminal pauses a scan and does not reach it. Port and key outlive a restart, so
    clients made before it go on working.
    """

    module = "sfdaq_ophyd.catalog._server"

    def __init__(self, directory: Path, *, readable: list[str], timeout: float = START_TIMEOUT):
        # a reader's lock must never keep a detector from opening its own file
        env = {**os.environ, "PYTHONUNBUFFERED": "1", "HDF5_USE_FILE_LOCKING": "FALSE"}
        title = f"the catalog in {directory}"
        super().__init__(self.module, timeout=timeout, env=env, title=title, hint=HINT)
        self.directory, self.readable = directory, readable
        self.api_key = secrets.token_hex(32)
        self.port = 0
        self.log = directory / "server.log"

    @property
    def url(self) -> str:
        """Base address, without the key."""
        return f"http://127.0.0.1:{self.port}"

    def launch(self, errors: object = None) -> None:
        """Begin to start, standard error in ``server.log``; `wait` comes next."""
        fresh = not self.log.exists() or self.log.stat().st_size > MAX_LOG
        with open(self.log, "wb" if fresh else "ab") as log:
            self._log_start = log.tell()
            super().launch(log)
        wanted = {"directory": str(self.directory), "readable": self.readable}
        with contextlib.suppress(ServiceUnreachable):  # `wait` tells why
            self.send({**wanted, "api_key": self.api_key, "port": self.port})

    def wait(self) -> str:
        """Wait for the address; return its port.

        Raises
        ------
        ServiceUnreachable
            The directory is in use, or the child failed; with its own words.
        ServiceTimeout
            It reported nothing more; with its last step.
        """
        try:
            self.port = int(said := super().wait())
        except ServiceUnreachable as exc:
            where = str(self.directory)
            raise ServiceUnreachable("start of the catalog", url=where, reason=exc.reason) from exc
        return said

    def _why_it_ended(self) -> str:
        return f"it ended. {self._last_words()}"

    def _last_words(self) -> str:
        """Return the end of what the child has written since it was launched."""
        with open(self.log, "rb") as log:
            log.seek(self._log_start)
            return f"Its output ends: {log.read()[-1500:].decode('utf-8', 'replace').strip()!r} ({self.log})"


def embedded_catalog(
    directory: str | Path,
    *,
    readable: Iterable[str | Path] | None = None,
    start_timeout: float = START_TIMEOUT,
) -> EmbeddedCatalog:
    """Open the catalog in `directory`, making it if it is new.

    Parameters
    ----------
    directory : str or Path
        Holds the catalog (SQLite), event tables, arrays, and documents not yet in the catalog.
    readable : iterable of path, optional
        Folders from which frame files may be read back, beside `directory`. Default: whatever the
        user running this may read; the server listens on loopback only, for one key that never
        leaves this process.
    start_timeout : float
        s without a sign of progress after which a start of the server has failed; those in which it had no
        CPU do not count.

    Returns
    -------
    EmbeddedCatalog
        A context manager; leaving it closes the catalog.

    Raises
    ------
    RequestError
        `directory` or a folder of `readable` is no folder.
    ServiceUnreachable
        Another process has this catalog open, or the server failed; with its own words.
    ServiceTimeout

    Examples
    --------
    ::

        with embedded_catalog("catalog") as catalog:
            sfdaq_ophyd.setup(RE, catalog)
            (uid,) = RE(bp.count([eiger], num=3))
            images = catalog[uid]["primary"]["eiger_image"].read()
    """
    require("catalog", "the embedded catalog", "tiled", "duckdb", "bluesky_tiled_plugins", "pyarrow")
    return EmbeddedCatalog(directory, readable=readable, start_timeout=start_timeout)


class EmbeddedCatalog(Catalog):
    """A Tiled catalog of our own; made by :func:`embedded_catalog`."""

    def __init__(self, directory, *, readable=None, start_timeout: float = START_TIMEOUT):
        self.directory = _folder("directory", directory, make=True)
        folders = ["/"] if readable is None else [str(_folder("readable", folder)) for folder in readable]
        self.server = ServerProcess(self.directory, readable=folders, timeout=start_timeout)
        self.server.launch()
        with without_collection():
            for module in ("tiled.client", "bluesky_tiled_plugins.writing.tiled_writer"):
                importlib.import_module(module)  # while the child does the same
        self.server.wait()
        try:
            now_at = functools.partial(_server.now_at, self.directory)
            super().__init__(self.directory / "documents", self.directory, now_at)
        except BaseException:
            self.server.stop()
            raise

    @property
    def uri(self) -> str:
        """Address with key, for ``tiled.client.from_uri`` in another process of the same user."""
        return f"{self.server.url}/api/v1?api_key={self.server.api_key}"

    def close(self, timeout: float = PATIENCE) -> None:
        """Write what is left, leave the RunEngines, end the server. Safe twice.

        Parameters
        ----------
        timeout : float
            Longest wait without any progress, s. What is not written by then is on disk and comes in by
            `replay`, and the log says so.
        """
        super().close(timeout)
        self.server.stop()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"at {self.server.url}"
        return f"<EmbeddedCatalog {str(self.directory)!r} {state}>"

    def _connect(self):
        import httpx
        from tiled.client import from_uri

        timeout = httpx.Timeout(ANSWER_TIMEOUT)
        client = from_uri(
            f"{self.server.url}/api/v1", api_key=self.server.api_key, trust_env=False, timeout=timeout
        )
        client.context.http_client.event_hooks["request"].append(self._check_alive)
        return self._as_catalog(client)

    def _check_alive(self, request) -> None:
        """Fail at once where the client would repeat a request to a dead server for 45 s."""
        if not self.server.running:
            raise ServiceUnreachable("catalog", url=self.server.url, reason="the server process has ended")

    def _ensure_server(self) -> None:
        with self._restart_lock:
            if not self.server.running and not self._closed:
                logger.warning("the catalog's server has ended; starting it again")
                self.server.stop()
                self.server.start()


def _folder(field: str, path, *, make: bool = False) -> Path:
    try:
        folder = Path(os.fspath(path)).expanduser().resolve()
        if make:
            folder.mkdir(parents=True, exist_ok=True)
    except (TypeError, OSError) as exc:
        raise RequestError(field, path, f"a folder ({exc})") from exc
    if not folder.is_dir():
        raise RequestError(field, path, "a folder that exists")
    return folder

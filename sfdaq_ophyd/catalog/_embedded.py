"""The embedded catalog: a Tiled server of our own, in a child process."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import RequestError, ServiceUnreachable, require
from ..starting import without_collection
from . import _server
from ._catalog import ANSWER_TIMEOUT, PATIENCE, Catalog
from ._process import START_TIMEOUT, ServerProcess

logger = logging.getLogger(__name__)


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
    """A Tiled catalog of our own; made by :func:`embedded_catalog`.

    Attributes
    ----------
    directory : Path
    server : ServerProcess
    """

    def __init__(self, directory, *, readable=None, start_timeout: float = START_TIMEOUT):
        self.directory = _folder("directory", directory, make=True)
        folders = ["/"] if readable is None else [str(_folder("readable", folder)) for folder in readable]
        self.server = ServerProcess(self.directory, readable=folders, timeout=start_timeout)
        self.server.launch()
        with without_collection():
            for module in ("tiled.client", "bluesky_tiled_plugins.writing.tiled_writer"):
                importlib.import_module(module)  # while the child does the same
        self.server.wait_ready()
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
        """Write what is left, leave the RunEngines, end the server. Safe twice."""
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
        if not self.server.alive:
            raise ServiceUnreachable("catalog", url=self.server.url, reason="the server process has ended")

    def _ensure_server(self) -> None:
        with self._restart_lock:
            if not self.server.alive and not self._closed:
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

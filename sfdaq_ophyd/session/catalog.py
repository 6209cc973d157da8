"""The catalog a session writes to: embedded or remote, opened when the first run or reader needs it."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError, ServiceUnreachable
from .config import SfdaqConfig
from .lazy import Lazy

_PUBLIC = ("client", "close", "databroker", "directory", "flush", "replay", "server", "uri", "waiting")


def lazy_catalog(config: SfdaqConfig) -> Lazy:
    """Return the catalog of the file, not opened yet: a callback for documents, and ``catalog[-1]``."""
    block = config.catalog
    if not block.uri:
        directory = config.directory / block.directory
        return Lazy(lambda: _embedded(directory, block.start_timeout), f"catalog in {directory}", _PUBLIC)
    backup = config.directory / "documents"
    make = lambda: RemoteCatalog(block.uri, block.api_key_variable, backup)  # noqa: E731
    return Lazy(make, f"catalog at {block.uri}", ("client", "flush", "close", "uri"))


def _embedded(directory: Path, start_timeout: float):
    from ..catalog import embedded_catalog

    return embedded_catalog(directory, start_timeout=start_timeout)


class RemoteCatalog:
    """A Tiled server of the facility: documents go there, runs come from there.

    Parameters
    ----------
    uri : str
    api_key_variable : str
        Environment variable that holds the key.
    backup : Path
        Runs that could not be written are kept here as JSON lines.

    Attributes
    ----------
    client : tiled client
    uri : str
    """

    def __init__(self, uri: str, api_key_variable: str, backup: Path):
        from bluesky_tiled_plugins import TiledWriter
        from tiled.client import from_uri

        key = os.environ.get(api_key_variable)
        if not key:
            raise ConfigError(
                f"catalog {uri}: set the environment variable {api_key_variable} to its API key"
            )
        self.uri = uri
        try:
            self.client = from_uri(uri, api_key=key)
        except Exception as exc:  # httpx, tiled and OS errors have no common root
            raise ServiceUnreachable("catalog", url=uri, reason=exc) from exc
        backup.mkdir(parents=True, exist_ok=True)
        self._writer = TiledWriter(self.client, batch_size=1, backup_directory=str(backup))

    def __call__(self, name: str, doc: dict) -> None:
        """Write one document."""
        self._writer(name, doc)

    def __getitem__(self, key):
        """Return a run by uid, scan_id or negative index."""
        return self.client[key]

    def __len__(self) -> int:
        return len(self.client)

    def __iter__(self):
        return iter(self.client)

    def flush(self, timeout: float = 10.0) -> None:
        """Nothing waits here: documents are written as they come."""

    def close(self) -> None:
        """Close the connection."""
        self.client.context.close()

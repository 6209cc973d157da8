"""The catalog a session writes to: embedded or remote, opened when the first run or reader needs it."""

from __future__ import annotations

import os

from ..errors import ConfigError
from .config import SfdaqConfig
from .lazy import Lazy

_PUBLIC = ("client", "close", "databroker", "directory", "extend", "flush", "replay", "runs_at", "server")
_PUBLIC += ("uri", "waiting")


def lazy_catalog(config: SfdaqConfig) -> Lazy:
    """Return the catalog of the file, not opened yet: a callback for documents, and ``catalog[-1]``."""
    block = config.catalog

    def make():
        from ..catalog import embedded_catalog, remote_catalog

        if not block.uri:
            return embedded_catalog(config.directory / block.embedded, start_timeout=block.start_timeout)
        return remote_catalog(block.uri, config.directory / block.documents, api_key=api_key(config))

    where = f"at {block.uri}" if block.uri else f"in {config.directory / block.embedded}"
    return Lazy(make, f"catalog {where}", _PUBLIC)


def api_key(config: SfdaqConfig) -> str:
    """Return the key for the catalog at ``catalog.uri``.

    Raises
    ------
    ConfigError
        Its file or environment variable is not there, or empty.
    """
    block = config.catalog
    if block.api_key_file is None:
        key = os.environ.get(block.api_key_variable, "").strip()
        wanted = f"set the environment variable {block.api_key_variable} to its API key"
    else:
        path = config.directory / block.api_key_file
        wanted = f"put its API key into {path}"
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"catalog {block.uri}: {wanted} ({exc})") from exc
    if not key:
        raise ConfigError(f"catalog {block.uri}: {wanted}")
    return key

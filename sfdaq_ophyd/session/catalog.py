"""The catalog a session writes to: embedded or remote, opened when the first run or reader needs it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import ConfigError
from .config import SfdaqConfig


class Lazy:
    """Stand in for an object until someone needs it.

    Only `attributes` make it: code that looks an unknown object over, as the queue server does, does not.

    Parameters
    ----------
    make : callable
        Called once, with nothing.
    what : str
        Shown by `repr` before.
    attributes : iterable of str
        Public attributes of the object.
    """

    def __init__(self, make: Callable[[], Any], what: str, attributes: Iterable[str]):
        self._make, self._what = make, what
        self._attributes = frozenset(attributes)
        self._lock = threading.RLock()
        self._made: Any = None

    def wake(self) -> Any:
        """Make the object now, if it was not; return it."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._attributes:
            raise AttributeError(f"{self._what} has no attribute {name!r}")
        return getattr(self.wake(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make it, and call it."""
        return self.wake()(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self.wake()[key]

    def __iter__(self):
        return iter(self.wake())

    def __len__(self) -> int:
        return len(self.wake())

    def __contains__(self, item: object) -> bool:
        return item in self.wake()

    def __dir__(self) -> list[str]:
        return sorted(self._attributes)

    def __repr__(self) -> str:
        return f"<{self._what}, opened at its first use>" if self._made is None else repr(self._made)


_PUBLIC = (
    *("client", "close", "databroker", "directory", "extend", "flush", "replay", "runs_at", "server"),
    *("uri", "waiting"),
)


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

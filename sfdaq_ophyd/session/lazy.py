"""Something made at its first use: importing plots or starting a catalog must not delay the prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any


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

    @property
    def is_made(self) -> bool:
        """Whether it was needed yet."""
        return self._made is not None

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
        return repr(self._made) if self.is_made else f"<{self._what}, opened at its first use>"

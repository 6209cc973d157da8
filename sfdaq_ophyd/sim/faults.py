"""Misbehaviour by name: it is armed by a test or a user, and taken by what is about to misbehave.

Each simulator has a table ``FAULTS`` beside its model: name to what happens, with its details in backticks.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from typing import Any

from ..errors import RequestError


class Fault(dict[str, Any]):
    """The details of a fault that happens now. True also where there are none."""

    def __bool__(self) -> bool:
        return True


def check(table: Mapping[str, str], what: str, details: Mapping[str, object]) -> None:
    """Refuse a name in no table, or a detail that its description does not name: RequestError."""
    if what not in table:
        raise RequestError("fault", what, f"one of {', '.join(table)}")
    known = re.findall(r"`(\w+)`", table[what])
    for name, value in details.items():
        if name not in known:
            raise RequestError(name, value, f"no such detail: {what} is {table[what]}")
        if isinstance(value, float) and not math.isfinite(value):
            raise RequestError(name, value, "a finite number")


class Faults:
    """What is to go wrong next, out of a table of names and what happens. Safe from any thread."""

    def __init__(self, table: Mapping[str, str]):
        self._table = table
        self._armed: list[tuple[str, Fault]] = []
        self._lock = threading.Lock()

    def add(self, what: str, details: Mapping[str, Any], count: int = 1, **where: Any) -> None:
        """Misbehave `count` times, anywhere or only where the place is `where`; see `check`."""
        check(self._table, what, details)
        fault = Fault({**details, **{key: value for key, value in where.items() if value is not None}})
        with self._lock:
            self._armed += [(what, fault)] * count

    def take(self, what: str, **where: Any) -> Fault | None:
        """Return the details of the next fault of this name that fits the place, and use it up.

        It fits if it agrees in what it names of the place; of a ``path`` it may name a part.
        """
        with self._lock:
            for i, (name, fault) in enumerate(self._armed):
                if name == what and all(_fits(key, fault, here) for key, here in where.items()):
                    del self._armed[i]
                    return fault
        return None

    @property
    def armed(self) -> tuple[str, ...]:
        """Names of the faults that have not happened yet."""
        with self._lock:
            return tuple(name for name, _ in self._armed)

    def clear(self) -> None:
        """Forget the faults that have not happened."""
        with self._lock:
            self._armed.clear()


def _fits(key: str, fault: Fault, here: Any) -> bool:
    named = fault.get(key)
    return named in (None, here) or key == "path" and named in here

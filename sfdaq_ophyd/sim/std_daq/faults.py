"""Everything that can be made to go wrong, by name."""

from __future__ import annotations

import threading
from collections import defaultdict, deque

AT_NEXT_USE = {
    "slow_creation": {"seconds"},
    "creation_error": {"text"},
    "late_subscription": {"seconds"},
    "missed_writing": {"seconds"},
    "hidden_folder": {"folder"},
    "hang": {"seconds", "path"},
    "lost_reply": {"path"},
    "bad_frames": {"n", "status"},
    "ring_overrun": {"rate", "seconds"},
    "gap": {"n"},
    "stall": {"after", "seconds"},
    "fewer_images": {"n"},
    "server_error": {"text"},
    "dies_writing": {"after"},
    "stopped_by_other": {"after"},
    "restarted_by_other": {"after"},
}
"""Faults that wait for the next occasion, with the details each takes."""

AT_ONCE = {
    "writer_dies": {"seconds"},
    "redis_away": {"seconds", "empty"},
    "redis_empty": set(),
    "rest_restarts": set(),
    "ghost_start": {"seconds"},
}
"""Faults that happen when they are asked for."""


class Faults:
    """What is to go wrong next."""

    def __init__(self):
        self._waiting: defaultdict[str, deque[dict]] = defaultdict(deque)
        self._lock = threading.Lock()

    def add(self, what: str, details: dict) -> None:
        """Queue a fault of `AT_NEXT_USE`; ValueError for an unknown name or detail."""
        check(what, details)
        with self._lock:
            self._waiting[what].append(details)

    def take(self, what: str, **where) -> dict | None:
        """Return the details of the next such fault, once; None if there is none for this place.

        ``where`` are details that must agree where the fault names them.
        """
        with self._lock:
            waiting = self._waiting[what]
            if not waiting or any(waiting[0].get(key, value) != value for key, value in where.items()):
                return None
            details = waiting.popleft()
            return details or {"": None}


def check(what: str, details: dict) -> None:
    """Raise ValueError for an unknown fault or an unknown detail."""
    known = AT_NEXT_USE.get(what, AT_ONCE.get(what))
    if known is None:
        raise ValueError(f"fault {what!r}: expected one of {', '.join(sorted(AT_NEXT_USE | AT_ONCE))}")
    if not set(details) <= known:
        raise ValueError(f"details of {what!r}: expected {sorted(known)}, got {sorted(details)}")

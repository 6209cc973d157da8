"""What RabbitMQ's status messages say of each file (wire reference sf-daq-broker, section 11).

Order is not guaranteed: a writer's start may come before the request it answers. Messages are matched by the
file in their body, which the broker announced in ``files``; ``write_finished`` does not prove that it exists.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ..errors import WireError
from .json_text import load_json

EXCHANGE = "status"
"""Fanout, not durable."""

MAX_PATH, MAX_WORDS = 4096, 1000
"""Characters of a file's path, as far as a system knows longer ones, and of why it failed: both are kept."""


class FileState(IntEnum):
    """What is known of a file; a later one wins, in whatever order the messages come."""

    UNKNOWN = 0
    REQUESTED = 1
    STARTED = 2
    FINISHED = 3
    FAILED = 4


_STATES = {
    "write_request": FileState.REQUESTED,
    "write_start": FileState.STARTED,
    "write_finished": FileState.FINISHED,
    "write_rejected": FileState.FAILED,
    "request_start": FileState.STARTED,
    "request_success": FileState.FINISHED,
    "request_fail": FileState.FAILED,
}


@dataclass(frozen=True, slots=True)
class StatusMessage:
    """What `source` says in its `body`, the request: what an `action` means, and why it failed (`message`).

    The `file` is the request's output; None for pedestals and power-on. There is one `correlation_id` per
    request, none from 2023 writers.
    """

    action: str
    source: str
    state: FileState
    file: str | None
    message: str | None
    correlation_id: str | None
    body: dict[str, Any]


def read_status(
    headers: Mapping[str, Any] | None, body: bytes | str, correlation_id: str | None
) -> StatusMessage:
    """Read one message; WireError if it is none.

    Examples
    --------
    >>> read_status({"action": "write_start", "source": "w"}, b'{"output_file": "/sf/x.h5"}', None).state.name
    'STARTED'
    """
    headers = headers if isinstance(headers, Mapping) else {}
    action = headers.get("action")
    if not isinstance(action, str) or action not in _STATES:
        raise WireError(f"status message with action {action!r:.100}: expected one of {', '.join(_STATES)}")
    try:
        request = load_json(body)
    except WireError as exc:
        raise WireError(f"status message {action}: the body is {exc}") from exc
    if not isinstance(request, dict):
        raise WireError(f"status message {action}: the body is not an object")
    file, message = request.get("output_file"), headers.get("message")
    return StatusMessage(
        action,
        str(headers.get("source", "")),
        _STATES[action],
        file if isinstance(file, str) and len(file) <= MAX_PATH else None,
        None if message is None else str(message)[:MAX_WORDS],
        correlation_id,
        request,
    )


class StatusBoard:
    """Keep the state of files one waits for. Safe to use from several threads.

    So are those of up to `limit` files that were not watched yet: messages may overtake the broker's reply.
    """

    def __init__(self, limit: int = 10_000):
        self._limit = limit
        self._states: dict[str, tuple[FileState, str | None]] = {}
        self._watched: set[str] = set()
        self._lock = threading.Lock()

    def watch(self, files: Iterable[str]) -> None:
        """Keep these until `forget`; what was heard of them before counts."""
        with self._lock:
            self._watched.update(files)

    def forget(self, files: Iterable[str]) -> None:
        """Keep the state of these files no longer."""
        with self._lock:
            for file in files:
                self._watched.discard(file)
                self._states.pop(file, None)

    def receive(self, message: StatusMessage) -> None:
        """Take one message."""
        if message.file is None:
            return
        with self._lock:
            state, _ = self._states.get(message.file, (FileState.UNKNOWN, None))
            if message.state <= state:
                return
            self._states[message.file] = (message.state, message.message)
            if len(self._states) > self._limit:
                self._drop_oldest()

    def state(self, file: str) -> tuple[FileState, str | None]:
        """Return what is known of a file, and why it failed."""
        with self._lock:
            return self._states.get(file, (FileState.UNKNOWN, None))

    def _drop_oldest(self) -> None:
        unwatched = next((file for file in self._states if file not in self._watched), None)
        if unwatched is not None:
            del self._states[unwatched]

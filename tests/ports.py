"""Ports for servers that must be told theirs, and are started later, or twice."""

from __future__ import annotations

import itertools
import os
import random
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_numbers = itertools.count(10_000 + 2_000 * (_WORKER % 8) + random.randrange(1_500))


def listens(port: int) -> bool:
    """Whether somebody does there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(n: int) -> list[int]:
    """Return `n` ports in a row, below those that the system gives to others meanwhile; none twice."""
    found: list[int] = []
    while len(found) < n:
        number = next(_numbers)
        found = [] if listens(number) else [*found, number]
    return found

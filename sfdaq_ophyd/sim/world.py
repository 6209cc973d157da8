"""What every simulator is to the Facility, and what it is given."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .clock import PulseClock

FIRST_LATER_PORT = 40
"""Behind `port_base`: servers that are new do not move the others, whose numbers stand in `sfdaq.yaml`."""


@dataclass
class World:
    """What all parts of one facility share.

    Parameters
    ----------
    clock : PulseClock
        The machine's pulse clock. Parts that do something at every pulse ``follow`` it.
    directory : Path
        Everything the parts write lies below it.
    speed : float
        Divides the services' own delays; never the frame identity.
    seed : int
        Seed of all random numbers.
    port_base : int
        First port to give out; 0 lets the system choose. Ask `next_port`, never use it directly.
    start_timeout : float
        s without a sign of progress after which the start of a part fails.
    parts : dict
        Parts already started, by name: a later part may look at an earlier one.
    """

    clock: PulseClock
    directory: Path
    speed: float = 1.0
    seed: int = 0
    port_base: int = 0
    start_timeout: float = 60.0
    parts: dict[str, Part] = field(default_factory=dict)
    _ports: dict[int, Iterator[int]] = field(default_factory=dict, repr=False)

    def next_port(self) -> int:
        """Return the port for one more server: 0 for any free one, else counted up from `port_base`."""
        return self._port(0)

    def later_port(self) -> int:
        """Return the port for a server that came when the others had their numbers."""
        return self._port(FIRST_LATER_PORT)

    def _port(self, first: int) -> int:
        if not self.port_base:
            return 0
        return next(self._ports.setdefault(first, itertools.count(self.port_base + first)))


class Part(Protocol):
    """A simulator the Facility starts and stops. Built as ``Part(world, **options)``."""

    name: str

    def launch(self) -> None:
        """Begin to start and return at once: children of several parts start side by side."""

    def start(self) -> None:
        """Return once it serves; launch it if that was not done."""

    def stop(self) -> None:
        """Leave nothing behind: threads joined, ports closed, children gone. Safe twice."""

    def addresses(self) -> dict[str, str]:
        """Say where it serves: role to URL, endpoint or PV name."""

    def fail_next(self, what: str, **details) -> None:
        """Misbehave once, by name; a name not in the part's documented list is a ValueError."""

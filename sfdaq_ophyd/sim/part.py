"""What every simulator is to the Facility, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .clock import PulseClock


@dataclass
class World:
    """What all parts of one facility share.

    Parameters
    ----------
    clock : PulseClock
        The machine's pulse clock.
    directory : Path
        Everything the parts write lies below it.
    speed : float
        Divides the services' own delays; never the frame identity.
    seed : int
        Seed of all random numbers.
    port_base : int
        First port to try, counted up per server; 0 takes free ports from the system.
    parts : dict
        Parts already started, by name: a later part may look at an earlier one.
    """

    clock: PulseClock
    directory: Path
    speed: float = 1.0
    seed: int = 0
    port_base: int = 0
    parts: dict[str, Part] = field(default_factory=dict)


class Part(Protocol):
    """A simulator the Facility starts and stops. Built as ``Part(world, **options)``."""

    name: str

    def start(self) -> None:
        """Return once it serves."""

    def stop(self) -> None:
        """Leave nothing behind: threads joined, ports closed, children gone. Safe twice."""

    def addresses(self) -> dict[str, str]:
        """Say where it serves: role to URL, endpoint or PV name."""

    def fail_next(self, what: str, **details) -> None:
        """Misbehave once, by name; a name not in the part's documented list is a ValueError."""

"""The other end of every cable: simulators of all services, on loopback."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .facility import Facility

__all__ = ["Facility"]


def __getattr__(name: str) -> object:
    """Import the facility when it is asked for: a process of one part does without."""
    if name == "Facility":
        from .facility import Facility

        return Facility
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

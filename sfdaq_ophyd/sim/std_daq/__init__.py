"""Simulated standard DAQ: REST in two dialects, the websocket generation, Redis streams, files, faults."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .part import StdDaqPart

__all__ = ["StdDaqPart"]


def __getattr__(name: str) -> object:
    """Import the part when it is asked for: the writer's process does without."""
    if name == "StdDaqPart":
        from .part import StdDaqPart

        return StdDaqPart
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""``sfdaq demo``: from an empty folder to a run of the whole beamline, its tables, pictures and report."""

from .command import demo

__all__ = ["demo"]

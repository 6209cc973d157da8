"""``sfdaq demo``: from an empty folder to a finished run of the whole beamline, its tables, pictures, report."""

from .command import demo

__all__ = ["demo"]

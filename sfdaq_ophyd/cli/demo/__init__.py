"""``sfdaq demo``: from an empty folder to a finished scan, its table and its pictures."""

from .command import demo

__all__ = ["demo"]

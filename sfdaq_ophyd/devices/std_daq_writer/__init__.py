"""The standard DAQ's writer: `StdDaqWriter`."""

from ._writer import StdDaqWriter

__all__ = ["StdDaqWriter"]

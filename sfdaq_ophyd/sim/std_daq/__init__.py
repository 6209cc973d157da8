"""Simulated standard DAQ: REST in two dialects, Redis streams, a writer process, HDF5 files, faults."""

from .part import StdDaqPart

__all__ = ["StdDaqPart"]

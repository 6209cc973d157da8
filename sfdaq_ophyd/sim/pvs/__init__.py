"""Simulated PVs: pulse id, trigger, shutter, motors, beam. Served by a caproto IOC on loopback."""

from .part import PvsPart

__all__ = ["PvsPart"]

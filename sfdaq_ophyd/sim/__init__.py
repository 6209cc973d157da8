"""The other end of every cable: simulators of all services, on loopback."""

from .facility import Facility

__all__ = ["Facility"]

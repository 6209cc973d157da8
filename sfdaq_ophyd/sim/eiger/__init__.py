"""A DECTRIS EIGER's detector control unit: SIMPLON over HTTP, with frames."""

from .detector import FAULTS
from .part import EigerPart

__all__ = ["FAULTS", "EigerPart"]

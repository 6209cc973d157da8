"""A DECTRIS EIGER's detector control unit: SIMPLON over HTTP, with frames."""

from .dcu import FAULTS
from .part import EigerPart

__all__ = ["FAULTS", "EigerPart"]

"""DECTRIS EIGER over SIMPLON."""

from ._detector import Eiger

__all__ = ["Eiger"]

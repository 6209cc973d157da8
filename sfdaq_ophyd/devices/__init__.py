"""ophyd devices: thin, and alike."""

from .pulse_id import PulseId

__all__ = ["PulseId"]

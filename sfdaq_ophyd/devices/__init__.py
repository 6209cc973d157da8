"""ophyd devices: thin, and alike."""

from ._acquisition import LossPolicy
from ._detector import Detector
from ._fly_group import FlyGroup
from ._source import FrameSource, Request
from .eiger import Eiger
from .jungfrau import Jungfrau
from .pulse_id import PulseId

__all__ = ["Detector", "Eiger", "FlyGroup", "FrameSource", "Jungfrau", "LossPolicy", "PulseId", "Request"]

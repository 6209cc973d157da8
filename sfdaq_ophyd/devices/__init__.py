"""ophyd devices: thin, and alike."""

from ..starting import without_collection

with without_collection():
    from ._acquisition import LossPolicy
    from ._assets import frames_in_hdf5
    from ._detector import Detector, FileDetector
    from ._flying import FlyGroup
    from ._pulse_window import NextWindow, PulseWindow, Told
    from ._source import FrameSource, Progress, Request, WrittenFile
    from ._status import Setting
    from .broker import SfDaqBroker
    from .eiger import Eiger
    from .jungfrau import Jungfrau
    from .pulse_id import PulseId
    from .std_daq_writer import StdDaqWriter

__all__ = [
    "Detector",
    "Eiger",
    "FileDetector",
    "FlyGroup",
    "FrameSource",
    "Jungfrau",
    "LossPolicy",
    "NextWindow",
    "Progress",
    "PulseId",
    "PulseWindow",
    "Request",
    "Setting",
    "StdDaqWriter",
    "SfDaqBroker",
    "Told",
    "WrittenFile",
    "frames_in_hdf5",
]

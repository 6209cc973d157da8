"""The sf-daq broker as a Bluesky device."""

from ._device import SfDaqBroker
from ._jobs import Job
from ._step import Point

__all__ = ["Job", "Point", "SfDaqBroker"]

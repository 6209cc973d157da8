"""The sf-daq broker as a Bluesky device."""

from ._device import SfDaqBroker
from ._jobs import Job, Service
from ._settings import NextPoint, Point

__all__ = ["Job", "NextPoint", "Point", "Service", "SfDaqBroker"]

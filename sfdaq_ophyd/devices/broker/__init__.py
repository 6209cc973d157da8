"""The sf-daq broker as a Bluesky device."""

from ._device import SfDaqBroker
from ._scan_info import Point
from ._service import CALL_TIMEOUT, Cancel, Job, Service
from ._signals import NextPoint

__all__ = ["CALL_TIMEOUT", "Cancel", "Job", "NextPoint", "Point", "Service", "SfDaqBroker"]

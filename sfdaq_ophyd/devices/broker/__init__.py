"""The sf-daq broker as a Bluesky device."""

from ._device import SfDaqBroker
from ._scan_info import NextPoint, Point
from ._service import CALL_TIMEOUT, Cancel, Job, Service

__all__ = ["CALL_TIMEOUT", "Cancel", "Job", "NextPoint", "Point", "Service", "SfDaqBroker"]

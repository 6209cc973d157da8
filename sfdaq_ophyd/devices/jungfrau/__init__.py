"""The Jungfrau as an ophyd device: module streams or the assembled stream, raw or calibrated."""

from ._control import BrokerControl, HardwareControl
from ._device import Jungfrau

__all__ = ["BrokerControl", "HardwareControl", "Jungfrau"]

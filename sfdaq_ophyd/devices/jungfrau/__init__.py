"""The Jungfrau as an ophyd device: module streams or the assembled stream, raw or calibrated."""

from ._control import HardwareControl
from ._device import Jungfrau

__all__ = ["HardwareControl", "Jungfrau"]

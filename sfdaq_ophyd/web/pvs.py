"""PVs on the page: the pulse id, and whatever else the configuration names."""

from __future__ import annotations

import time
from typing import Any

from .source import Rate, Source

LIMIT = 1.0
"""s for an answer of a PV."""

STANDS_AFTER = 1.0
"""s without a new pulse id after which the machine's clock stands, as far as the page can see."""


class PulseIdSource(Source):
    """Watch the machine's pulse id and how fast it counts.

    Parameters
    ----------
    name, pv : str
    """

    group = "pulse_ids"

    def __init__(self, name: str, pv: str, period: float = 0.2):
        super().__init__(name, "pulse id", pv, period)
        self._device, self._rate = None, Rate()
        self._value, self._stands_since = None, 0.0

    def look(self) -> dict[str, Any]:
        """Ask the IOC for the pulse id of this moment."""
        if self._device is None:
            from ..devices import PulseId

            self._device = PulseId(self.address, name=self.name, timeout=LIMIT)
            self._device.wait_for_connection(timeout=LIMIT)
        pulse_id = self._device.get()
        now = time.monotonic()
        if pulse_id != self._value:
            self._value, self._stands_since = pulse_id, now
        stands = now - self._stands_since
        seen = {"value": pulse_id, "rate": self._rate.update(pulse_id), "level": "good"}
        return seen if stands < STANDS_AFTER else seen | {"level": "bad", "stands": round(stands, 1)}

    def rest(self) -> None:
        """Leave the PV."""
        if self._device is not None:
            self._device.destroy()
        self._device, self._rate = None, Rate()


class PvSource(Source):
    """Watch a PV.

    Parameters
    ----------
    name, pv : str
    string : bool
        Read an enum as its text.
    """

    group = "pvs"

    def __init__(self, name: str, pv: str, *, string: bool = False, period: float = 0.5):
        super().__init__(name, "PV", pv, period)
        self._string, self._signal = string, None

    def look(self) -> dict[str, Any]:
        """Ask the IOC: what it pushed last would look fresh when it does not answer any more."""
        if self._signal is None:
            from ophyd import EpicsSignalRO

            self._signal = EpicsSignalRO(
                self.address, name=self.name, string=self._string, auto_monitor=False
            )
        self._signal.wait_for_connection(timeout=LIMIT)
        value = self._signal.get(timeout=LIMIT)
        units = self._signal.metadata.get("units")
        shown = f"{value:.6g}" if isinstance(value, float) else f"{value!s:.60}"
        return {"value": shown, "units": units or ""}

    def rest(self) -> None:
        """Leave the PV."""
        if self._signal is not None:
            self._signal.destroy()
        self._signal = None

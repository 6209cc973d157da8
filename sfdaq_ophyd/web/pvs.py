"""PVs on the page: the pulse id, and whatever else the configuration names."""

from __future__ import annotations

from typing import Any

from .source import Rate, Source

LIMIT = 1.0
"""s for an answer of a PV."""


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

    def look(self) -> dict[str, Any]:
        """Ask the IOC for the pulse id of this moment."""
        if self._device is None:
            from ..devices import PulseId

            self._device = PulseId(self.address, name=self.name, timeout=LIMIT)
            self._device.wait_for_connection(timeout=LIMIT)
        pulse_id = self._device.get()
        return {"value": pulse_id, "rate": self._rate.update(pulse_id)}

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
        """Read the PV; its changes are pushed by the IOC."""
        if self._signal is None:
            from ophyd import EpicsSignalRO

            self._signal = EpicsSignalRO(self.address, name=self.name, string=self._string, auto_monitor=True)
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

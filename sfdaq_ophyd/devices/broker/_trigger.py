"""The trigger of the beamline: the broker stops it for settings, and may leave it stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import SfdaqError, shown_url
from ...wire.broker import TRIGGER_RUNNING, TRIGGER_STOPPED
from .._debts import Debts

if TYPE_CHECKING:
    from ._device import SfDaqBroker

RUNNING, STOPPED = "running", "stopped"


class Trigger:
    """What the trigger PV of a broker device shows, and the start of a trigger that was left stopped.

    Parameters
    ----------
    device : SfDaqBroker
    """

    def __init__(self, device: SfDaqBroker):
        self._device, self._client = device, device.client
        address = f"{shown_url(device.client.url)} trigger"
        self._debts = Debts(device.name, address, device.asking.directory)

    def runs(self) -> bool | None:
        """Whether the trigger runs; None if that is not known."""
        return {TRIGGER_RUNNING: True, TRIGGER_STOPPED: False}.get(self._event_code())

    def words(self) -> str:
        """Say what the PV shows, for a person."""
        pv, code = self._device.event_code, self._event_code()
        if pv is None:
            return "No trigger PV was given to this device: look whether it is 254, running."
        if code is None:
            return f"The trigger PV {pv.pvname} cannot be read."
        state = "running" if code == TRIGGER_RUNNING else "NOT running: the beamline has no trigger"
        return f"The trigger PV {pv.pvname} is {code}: {state}."

    def start(self, detector: str) -> str:
        """Start a trigger that settings of `detector` left stopped; say what came of it. Else it is owed."""
        try:
            self._start(detector)
        except SfdaqError as exc:
            self._debts.owe(detector, left=STOPPED, back=RUNNING, reason=exc)
            return f"The trigger was left stopped, and could not be started again: {exc}"
        return "The trigger was left stopped, and has been started again."

    def pay(self) -> None:
        """Start the trigger if it is owed, and stands."""
        if self._debts.owed():
            states = {True: RUNNING, False: STOPPED}
            self._debts.pay(lambda what: states.get(self.runs(), STOPPED), self._start_all)

    def _start_all(self, detectors: dict) -> None:
        self._start(next(iter(detectors)))

    def _start(self, detector: str) -> None:
        """Set times to what they are: a call that goes well starts the trigger, whatever it changes."""
        now = self._client.get_detector_settings(detector)
        times = {key: now[key] for key in ("delay", "exptime") if isinstance(now.get(key), int | float)}
        self._client.set_detector_settings(detector, times)

    def _event_code(self) -> int | None:
        pv = self._device.event_code
        try:
            return None if pv is None else int(pv.get(timeout=2, connection_timeout=2))
        except (TimeoutError, ValueError, TypeError):
            return None

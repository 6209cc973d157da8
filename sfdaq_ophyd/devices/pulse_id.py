"""The machine's pulse id, from its PV. Read or waited for, never computed."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import SupportsFloat

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO

from ..errors import RequestError, ServiceTimeout, ServiceUnreachable, WireError
from ..limits import Alarm, Limit, asked_again
from ._status import GRACE, ActionStatus


class PulseIdSignal(EpicsSignalRO):
    """An integer that comes as a double, since Channel Access has no 64-bit integers."""

    def get(self, **kwargs) -> int:
        """Ask the IOC for the value of this moment.

        Parameters
        ----------
        **kwargs
            Of ``EpicsSignalRO.get``; passed over, for the value is always asked for anew.

        Returns
        -------
        int
            The pulse id.

        Raises
        ------
        ServiceUnreachable
            The PV is not connected, or does not answer; a remembered value is never returned.
        WireError
            The PV holds no pulse id.
        """
        return self._sample()[0]

    def read(self) -> dict:
        """Return the pulse id of this moment, with the IOC's timestamp of that same id."""
        value, timestamp = self._sample()
        return {self.name: {"value": value, "timestamp": timestamp}}

    def describe(self) -> dict:
        """Describe the one key; known without the PV."""
        source = f"PV:{self.pvname}"
        return {self.name: {"source": source, "dtype": "integer", "dtype_numpy": "<i8", "shape": []}}

    def _sample(self) -> tuple[int, float]:
        limits = {"timeout": self.timeout, "connection_timeout": self.connection_timeout}
        form = {"count": None, "as_string": False, "form": "time", "use_monitor": False}
        try:
            answer = asked_again(
                lambda: self._get_with_timeout(self._read_pv, **limits, **form), self.timeout
            )
        except TimeoutError as exc:
            raise ServiceUnreachable(f"{self.name}: pulse id", url=self.pvname, reason=exc) from exc
        return _checked(self.pvname, answer["value"]), answer["timestamp"]

    def _add_callback(self, pvname, pv, cb):
        """Begin a monitor, without ophyd's reads before it: caproto tells their value with another's time."""
        with self._metadata_lock:
            if not self._monitors[pvname]:
                self._monitors[pvname] = pv.add_callback(cb, run_now=False, with_ctrlvars=False)

    def _read_changed(self, value=None, **kwargs):
        super()._read_changed(value=_checked(self.pvname, value), **kwargs)


class PulseId(Device):
    """The pulse id of the machine: an integer, +1 every 10 ms, whatever the beam does.

    One event key, the device's name. Read as a detector it is the pulse of that moment, which is after those
    of the point's frames: their own are in the detectors' columns ``NAME_pulse_id`` and
    ``NAME_start_pulse_id``, the same in all that `same_pulses` triggers together.

    Searching for the PV goes on in the background; making the device neither blocks nor fails without it.

    Parameters
    ----------
    prefix : str
        The PV, e.g. ``"SLAAR21-LTIM01-EVR0:RX-PULSEID"``.
    name : str
    timeout : float
        How long the PV may stand still before a wait fails, s. A simulated clock that waits for slower parts
        stands now and then.

    Examples
    --------
    ::

        pulse_id = PulseId("SLAAR21-LTIM01-EVR0:RX-PULSEID", name="pulse_id")
        first = pulse_id.get()
        pulse_id.wait_past(first + 100).wait()  # a second later
    """

    value = Cpt(PulseIdSignal, "", kind="hinted")

    def __init__(self, prefix: str = "", *, name: str, timeout: float = 10.0, **kwargs):
        if not timeout > 0 or not math.isfinite(timeout):
            raise RequestError("timeout", timeout, "a number of s above 0")
        super().__init__(prefix, name=name, **kwargs)
        self.timeout = timeout
        self.value.name = self.name
        self._monitors: dict[Callable, int] = {}

    def get(self, **kwargs) -> int:
        """Ask for the pulse id of this moment.

        Parameters
        ----------
        **kwargs
            Of ``Device.get``; passed over.

        Returns
        -------
        int
            The pulse id.

        Raises
        ------
        ServiceUnreachable, WireError
            As of `PulseIdSignal.get`.
        """
        return self.value.get()

    def trigger(self) -> ActionStatus:
        """Finish at the next pulse, so that what is read then was counted after the call."""
        now = self.get()
        return self._count(now, now, self.timeout, restarts=False)

    def subscribe(self, function: Callable[[dict], object], event_type: str | None = None, run: bool = True):
        """Have a function called with the reading of each pulse id that comes, as ``bps.monitor`` does.

        Parameters
        ----------
        function : callable
            Takes a reading.
        event_type : str, optional
            With one, as `ophyd.Device` has it.
        run : bool
            Call it at once with what is known.

        Returns
        -------
        int
            For `ophyd.Device.unsubscribe`.
        """
        if event_type is not None:
            return super().subscribe(function, event_type=event_type, run=run)

        known: deque[int] = deque(maxlen=16)  # the PV may be told more than once of a pulse

        def told(*, value: int, timestamp: float, **kwargs) -> None:
            if value in known:
                return
            known.append(value)
            function({self.name: {"value": value, "timestamp": timestamp}})

        self._monitors[function] = self.value.subscribe(told, run=run)
        return self._monitors[function]

    def clear_sub(self, cb: Callable, event_type: str | None = None) -> None:
        """End what `subscribe` began."""
        if (monitor := self._monitors.pop(cb, None)) is not None:
            self.value.unsubscribe(monitor)
        else:
            super().clear_sub(cb, event_type=event_type)

    def wait_past(self, pulse_id: int, timeout: float | None = None) -> ActionStatus:
        """Wait until the PV shows a pulse id greater than `pulse_id`.

        Parameters
        ----------
        pulse_id : int
        timeout : float, optional
            Limit in s; by default it fails only once the PV has stood still for the device's `timeout`, as
            when its IOC is gone, however slowly it counts.

        Returns
        -------
        ActionStatus
            Fails with ServiceTimeout, which tells the last id seen; `watch` counts pulses.

        Raises
        ------
        ServiceUnreachable
            The PV is not connected.
        """
        now = self.get()
        if timeout is None:
            return self._count(now, pulse_id, self.timeout, restarts=True)
        return self._count(now, pulse_id, timeout, restarts=False)

    def check(self, timeout: float | None = None, n_pulses: int = 10) -> float:
        """Measure that the PV is connected and counts.

        Parameters
        ----------
        timeout : float, optional
            Limit in s; by default it fails once the PV has stood still for the device's `timeout`.
        n_pulses : int
            Pulses that are waited for.

        Returns
        -------
        float
            Its rate, Hz.

        Raises
        ------
        ServiceUnreachable
            Not connected.
        ServiceTimeout
            It stands, or takes longer than `timeout` for `n_pulses`.
        """
        first, begin = self.get(), time.monotonic()
        self.wait_past(first + n_pulses - 1, timeout).wait()
        return (self.get() - first) / (time.monotonic() - begin)

    def _count(self, now: int, target: int, timeout: float, *, restarts: bool) -> ActionStatus:
        """Return a status that fails after `timeout` s; after as many without a pulse, if it `restarts`."""
        n_pulses = max(1, target + 1 - now)
        status = ActionStatus(self, "pulse", timeout + GRACE, target=n_pulses, unit="pulses")
        seen, limit = now, Limit(timeout)
        alarm: Alarm

        def update(*, value: int, **kwargs) -> None:
            nonlocal seen
            if value > seen:
                seen = value
                if restarts:
                    limit.restart()
            if not status.done:
                status.progress(min(seen - now, n_pulses), f"pulse id {seen}")
            if seen > target:
                status.succeed()

        def look() -> None:
            """In the thread of the alarms; what comes between its last two looks still counts."""
            nonlocal alarm
            if status.done:
                return
            if not limit.reached():
                alarm = Alarm(limit.left, look)
                return
            what = f"{self.name}: pulse id past {target}"
            stood = restarts or seen == now
            hint = f"{self.prefix} stands: does the timing receiver count?" if stood else ""
            status.fail(ServiceTimeout(what, timeout, str(seen), hint))

        def end(status: ActionStatus) -> None:
            alarm.cancel()
            self.value.unsubscribe(subscription)

        subscription = self.value.subscribe(update, run=False)
        alarm = Alarm(limit.left, look)
        status.add_callback(end)
        update(value=now)
        return status


def _checked(pv: str, value: SupportsFloat) -> int:
    number = float(value)
    if not math.isfinite(number) or number < 0 or number != int(number):
        raise WireError(f"{pv} holds {value!r}: expected a pulse id, an integer of at least 0")
    return int(number)

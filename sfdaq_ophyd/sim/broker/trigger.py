"""The trigger of all detectors of a beamline: 254 runs, 255 is stopped (contract sections 10.1, 12)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from ...wire.broker import TRIGGER_RUNNING, TRIGGER_STOPPED
from .delays import TRIGGER_SETTLE, Delays
from .refusals import TriggerError

_STILL = 2**63 - 1


class Trigger:
    """One beamline's trigger; behind a PV where there is one.

    Parameters
    ----------
    delays : Delays
    now : callable
        Returns the pulse id of this moment.
    read, write : callable, optional
        Access to the PV; default keeps the value here.
    """

    def __init__(
        self,
        delays: Delays,
        now: Callable[[], int],
        read: Callable[[], float] | None = None,
        write: Callable[[int], None] | None = None,
    ):
        self._delays, self._now = delays, now
        self._stops: deque[list[int]] = deque(maxlen=1000)  # [first pulse missed, last]
        self._value = TRIGGER_RUNNING
        self._read = read or (lambda: self._value)
        self._write = write or (lambda value: setattr(self, "_value", value))
        self.stuck = 0
        """How many of the next writes are lost."""

    @property
    def value(self) -> int:
        """The event code."""
        return int(self._read())

    @property
    def running(self) -> bool:
        """Whether the detectors are triggered."""
        return self.value == TRIGGER_RUNNING

    def stop(self) -> None:
        """Stop the trigger, wait, and make sure."""
        self._set(TRIGGER_STOPPED, "stop")
        if not (self._stops and self._stops[-1][1] == _STILL):
            self._stops.append([self._now(), _STILL])

    def start(self) -> None:
        """Start the trigger, wait, and make sure."""
        self._set(TRIGGER_RUNNING, "start")
        if self._stops and self._stops[-1][1] == _STILL:
            self._stops[-1][1] = self._now()

    def missed(self, pulse_ids: Iterable[int]) -> set[int]:
        """Return the pulses during which the services had it stopped."""
        stops = list(self._stops)
        return {pulse for pulse in pulse_ids if any(first <= pulse <= last for first, last in stops)}

    def _set(self, value: int, action: str) -> None:
        for _ in range(2):
            if self.stuck:
                self.stuck -= 1
            else:
                self._write(value)
            self._delays.wait(TRIGGER_SETTLE)
            if self.value == value:
                return
        raise TriggerError(f"trigger did not {action}: event code is {self.value}, not {value}")

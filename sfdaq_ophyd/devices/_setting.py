"""A setting that stays what the descriptor of a run says of it."""

from __future__ import annotations

from ophyd import Signal

from ..errors import DetectorStateError
from ._status import GRACE, ActionStatus


class Setting(Signal):
    """A setting of a detector, fixed while that is staged."""

    def put(self, value, **kwargs) -> None:
        """Set it; DetectorStateError if the device is staged, and the value another one."""
        refuse_while_staged(self, value, self._readback)
        super().put(value, **kwargs)

    def set(self, value, **kwargs) -> ActionStatus:
        """Set it as `put` does, at once."""
        self.put(value)
        status = ActionStatus(self, "setting", GRACE, unit="steps")
        status.succeed()
        return status


def refuse_while_staged(signal: Signal, value: object, now: object) -> None:
    """Raise `DetectorStateError` if `value` would contradict what the run has recorded of `signal`."""
    if signal.parent.is_staged and value != now:
        raise DetectorStateError(
            f"{signal.name}={value!r}: it is {now!r} while {signal.parent.name} is staged, and the run says "
            "so; unstage first"
        )

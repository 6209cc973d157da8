"""Statuses that say what they wait for, what they last saw, and why they failed.

The text of a failed status becomes the `reason` of the run's stop document: the RunEngine takes
``str(status)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import SupportsInt

from bluesky.protocols import HasName
from ophyd import Signal
from ophyd.status import StatusBase
from ophyd.utils import InvalidState

from ..errors import DetectorStateError, Discarded, RequestError, ServiceTimeout
from ..limits import Alarm, counted_time

GRACE = 30.0
"""s after its own limit at which an alarm ends a status whose thread is stuck."""


class ActionStatus(StatusBase):
    """A long action of one device, for the RunEngine to wait for and for a progress bar to draw.

    Whoever makes it also ends it, and has put the hardware at rest before: unlike ophyd's DeviceStatus, a
    failure does not call ``device.stop()`` from a thread.

    Parameters
    ----------
    device : HasName
        Whose action.
    what : str
        The action, e.g. ``"exposure"``.
    timeout : float
        s without progress until it fails by itself, whatever happens to the thread that should end it; time
        in which this process could not look does not count.
    target : float
        Where `current` ends.
    unit : str
        Of `current` and `target`.

    Attributes
    ----------
    result : object
        What the action returned; None until it is over.
    """

    result: object = None

    def __init__(
        self, device: HasName, what: str, timeout: float, *, target: float = 1, unit: str = "frames"
    ):
        self.device, self.what = device, what
        self.target, self._unit = target, unit
        self._started = counted_time()
        self._watchers: list[Callable] = []
        self.current: float = 0
        self.last_seen = ""
        self._limit = float(timeout)
        self._backstop: Alarm | None = None
        super().__init__()
        self.release()

    @property
    def timeout(self) -> float:
        """Time without progress after which it fails by itself, s."""
        return self._limit

    def hold(self) -> None:
        """Stop the clock, while the RunEngine is paused."""
        if self._backstop is not None:
            self._backstop.cancel()

    def release(self) -> None:
        """Start the clock, anew."""
        self.hold()
        self._moved = counted_time()
        self._backstop = Alarm(self._limit, self._late)

    @property
    def name(self) -> str:
        """What a progress bar calls it."""
        return f"{self.device.name} {self.what}"

    def watch(self, func: Callable) -> None:
        """Have a function called at each step, with the keywords of bluesky's progress bar.

        `fraction` is what remains, 1 to 0, as that bar takes it; times are in s.
        """
        self._watchers.append(func)
        self._tell(func)

    def progress(self, current: float, last_seen: str = "") -> None:
        """Note how far it is, and the last state seen, for watchers and for the message of a timeout."""
        if (current, last_seen or self.last_seen) != (self.current, self.last_seen):
            self._moved = counted_time()
        self.current = current
        self.last_seen = last_seen or self.last_seen
        for func in tuple(self._watchers):
            self._tell(func)

    def _tell(self, func: Callable) -> None:
        elapsed = counted_time() - self._started
        done = self.current / self.target if self.target else 1.0
        try:
            func(
                name=self.name,
                current=self.current,
                initial=0,
                target=self.target,
                unit=self._unit,
                precision=0,
                fraction=max(0.0, 1.0 - done),
                time_elapsed=elapsed,
                time_remaining=elapsed * (1 - done) / done if done > 0 else None,
            )
        except Exception:
            self._watchers = [watcher for watcher in self._watchers if watcher is not func]
            self.log.exception("%s: a watcher failed; it is not called again", self.name)

    def _late(self) -> None:
        left = self._moved + self._limit - counted_time()
        if left > 0:  # there was progress meanwhile
            self._backstop = Alarm(left, self._late)
            return
        self.fail(ServiceTimeout(self.name, self._limit, self.last_seen))

    def _settled(self) -> None:
        self.hold()
        if self._exception is None:
            self.progress(self.target)

    @classmethod
    def done_at_once(cls, device: HasName, what: str, unit: str = "frames") -> ActionStatus:
        """Return the status of an action that is over already.

        Parameters
        ----------
        device : HasName
            Whose action.
        what : str
            The action, e.g. ``"setting"``.
        unit : str
            Of the one that was done, for a progress bar.
        """
        status = cls(device, what, GRACE, unit=unit)
        status.succeed()
        return status

    def outcome(self, action: Callable[[], object]) -> Callable[[], None]:
        """Call `action` for the `result`; return what ends this status accordingly, to be called once."""
        try:
            self.result = action()
        except Exception as exc:
            return partial(self.end, exc)
        return self.succeed

    def end(self, exc: Exception | None) -> None:
        """Fail with `exc`; finish without one, or if it was given up on purpose, as by a pause."""
        if exc is None or isinstance(exc, Discarded):
            self.succeed()
        else:
            self.fail(exc)

    def succeed(self) -> None:
        """Finish, unless it is finished already."""
        with contextlib.suppress(InvalidState):
            self.set_finished()

    def fail(self, exc: Exception) -> None:
        """Fail with `exc`, unless it is finished already."""
        with contextlib.suppress(InvalidState):
            self.set_exception(exc)

    def __str__(self) -> str:
        exc = self.exception(timeout=0) if self.done else None
        if exc is not None:
            text = str(exc)
            told = text if self.device.name in text else f"{self.device.name}: {text}"
            if not isinstance(exc, ServiceTimeout) and self.what not in told:
                told = f"{told} (during {self.what})"
            return told
        state = "done" if self.done else self.last_seen or "waiting"
        return f"{self.name}: {state}, {self.current:g} of {self.target:g} {self._unit}"

    __repr__ = __str__


class Setting(Signal):
    """A setting of a detector, fixed while that is staged."""

    def put(self, value, **kwargs) -> None:
        """Set it.

        Raises
        ------
        DetectorStateError
            The device is staged, and the value another one.
        """
        refuse_while_staged(self, value, self._readback)
        super().put(value, **kwargs)

    def set(self, value, **kwargs) -> ActionStatus:
        """Set it as `put` does, at once."""
        self.put(value)
        return ActionStatus.done_at_once(self, "setting", "steps")


def refuse_while_staged(signal: Signal, value: object, now: object) -> None:
    """Refuse a value that would contradict what the run has recorded of a signal.

    Parameters
    ----------
    signal : Signal
        Of a device that knows whether it is staged.
    value, now : object
        What it is to be, and what it is.

    Raises
    ------
    DetectorStateError
        The device is staged, and the two differ.
    """
    if signal.parent.is_staged and value != now:
        raise DetectorStateError(
            f"{signal.name}={value!r}: it is {now!r} while {signal.parent.name} is staged, and the run says "
            "so; unstage first"
        )


def whole_number(field: str, value: object, least: int) -> int:
    """Return a whole number of `least` or more as an int.

    Parameters
    ----------
    field : str
        What the number is of, for the message.
    value : object
        ``3`` and ``3.0`` are whole numbers, ``True`` and ``"3"`` are not.
    least : int
        The smallest that is right.

    Raises
    ------
    RequestError
        It is none, or smaller.
    """
    try:
        if isinstance(value, SupportsInt) and not isinstance(value, bool) and int(value) == value:
            number = int(value)
            if number >= least:
                return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise RequestError(field, value, f"a whole number, {least} or more")


def naming(exc: Exception, name: str) -> Exception:
    """Return an exception that says whose it is: in its text, or, where that cannot be, in a note."""
    if name not in str(exc):
        if isinstance(exc, OSError) and exc.strerror:
            exc.strerror = f"{name}: {exc.strerror}"
        elif all(isinstance(arg, str | int | float) for arg in exc.args):
            exc.args = (f"{name}: {exc}",)
        if name not in str(exc):
            exc.add_note(f"of {name}")
    return exc

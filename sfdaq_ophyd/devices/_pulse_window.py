"""One window of pulses per point, shared by all devices that count pulses and are triggered together.

What a live stream shows is soon gone; what the broker has buffered can be asked for later. So the live
devices take the first frames they get once every device of the point was triggered, and the others take the
same pulses. Nobody has to be fast: the window begins with a frame that a live device has.
"""

from __future__ import annotations

import math
import threading
from typing import Any, Protocol

from bluesky.protocols import HasName
from ophyd import Device

from ..errors import DetectorStateError
from ..wire.pulse_id import PulseRange
from ._status import ActionStatus


class Told(Device):
    """Holds what a plan tells its device before a trigger; setting it is done at once."""

    current: Any = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._done = ActionStatus.done_at_once(self.parent, self.attr_name)

    def set(self, value: Any) -> ActionStatus:
        """Remember what the next trigger is for; done at once."""
        self.current = value
        return self._done


class NextWindow(Told):
    """Takes the `PulseWindow` that the next trigger is for, and has its device join it (`join_window`)."""

    def set(self, window: PulseWindow) -> ActionStatus:
        """Join a window; done at once."""
        return super().set(self.parent.join_window(window))

    def take(self) -> PulseWindow | None:
        """Return it, for one trigger only; None where no plan has told any."""
        window, self.current = self.current, None
        return window


class PulseCounter(Protocol):
    """What devices count pulses by: a `PulseId`, or what else tells the pulse of this moment."""

    def get(self) -> int:
        """Return the pulse id of this moment."""


class PulseWindow:
    """The pulses of one point, from the first on which all its devices can agree.

    It is triggered after its devices, and chosen once the live ones listen: past the pulse of that moment,
    and past every frame that one of them has let go by meanwhile. The first live frame fixes where it begins.
    The `name` that methods take is that of the device that calls them.
    """

    name, parent = "pulse window", None

    def __init__(self):
        self._lock = threading.Condition()
        self._has_live = False
        self._begin()

    def _begin(self) -> None:
        self._triggered, self._fixed = False, False
        self._first: int | None = None
        self._seen, self._every, self._n_admitted = -1, 1, 0
        self._pulse_id: PulseCounter | None = None
        self._live: dict[str, bool] = {}  # by name, whether it has its frames
        self._around: dict[str, bool] = {}  # the same of devices around live ones
        self._tried: set[str] = set()
        self._complete: set[str] = set()
        self._n_takes = 0
        self._waiting: list[ActionStatus] = []

    @classmethod
    def of_one(cls, name: str, pulse_id: PulseCounter, every: int = 1) -> PulseWindow:
        """Return the window, triggered already, of a device that shares its pulses with no other."""
        window = cls()
        window.join(name, pulse_id, every=every)
        window.trigger()
        return window

    def join(self, name: str, pulse_id: PulseCounter, *, every: int = 1, live: bool = False) -> PulseWindow:
        """Make a device one of the window's, before that is triggered; if it was, the point is taken again.

        Parameters
        ----------
        name : str
            Of the device.
        pulse_id : PulseId
            What it counts pulses by; only its ``get()`` is used.
        every : int
            The window begins with a multiple of it.
        live : bool
            The device calls `attempt`, `admits` and `settle`.

        Returns
        -------
        PulseWindow
            This one; another one if the device counts other pulses.
        """
        with self._lock:
            if self._triggered:
                self._begin()
            if self._pulse_id is not None and _key(self._pulse_id) != _key(pulse_id):
                return self.of_one(name, pulse_id, every)
            self._pulse_id = pulse_id if self._pulse_id is None else self._pulse_id
            self._every = math.lcm(self._every, every)
            if live:
                self._has_live, self._live[name] = True, False
                self._tried.discard(name)
        return self

    def hold(self, name: str) -> None:
        """Note a device that has live ones take its points again: it calls `settle` when its own is done."""
        with self._lock:
            self._around[name] = False

    def awaits(self, name: str) -> bool:
        """Say whether a live device may still take frames out of it.

        Parameters
        ----------
        name : str
            Of the device; False for one that is none of the window's.
        """
        with self._lock:
            return name in self._live and not self._is_settled

    def trigger(self) -> ActionStatus:
        """Note that all devices of the point were triggered: its pulses may be chosen. Done at once."""
        with self._lock:
            self._triggered = True
            if self._live and self.is_open:
                self._chosen()
            self._tell()
        return ActionStatus.done_at_once(self, "choice")

    @property
    def has_live(self) -> bool:
        """Whether a live device takes its frames out of it, or did before a pause."""
        return self._has_live

    def attempt(self, name: str, newest: int = -1) -> int:
        """Note that a live device listens; for the second time, all live ones need new pulses.

        Parameters
        ----------
        newest : int
            Pulse of the newest frame that came before it listened.

        Returns
        -------
        int
            How often the point was taken before, for `wait_for_others`.

        Raises
        ------
        DetectorStateError
            Another live device is done with frames of these pulses.
        """
        with self._lock:
            if name in self._tried:
                over = self._has_all  # each has handed its last frame on
                others = ", ".join(o for o, done in self._live.items() if o != name and (done or over))
                if others:
                    raise DetectorStateError(
                        f"{name}: the point cannot be taken again here alone: {others} has the same pulses"
                    )
                self._first, self._fixed, self._live[name] = None, False, False
                self._tried, self._complete = set(), set()
                self._n_takes += 1
                self._lock.notify_all()
            self._tried.add(name)
            self._seen = max(self._seen, newest)
            if self.is_open:
                self._chosen()
            return self._n_takes

    def goes_on(self, take: int) -> bool:
        """Say whether no live device has begun to take the point again since `attempt` returned `take`."""
        return take == self._n_takes

    def wait_for_others(self, name: str, take: int, timeout: float) -> bool:
        """Wait until every live device has its last frame; whether that is over.

        For a device that has its own last frame, and keeps it back. It is over too where one of the others
        takes the point again: see `goes_on`.

        Parameters
        ----------
        name : str
            Of the device that calls.
        take : int
            What `attempt` returned.
        timeout : float
            Longest wait, s.

        Returns
        -------
        bool
            False where `timeout` s went by: call it again.
        """
        with self._lock:
            if take == self._n_takes:
                self._complete.add(name)
                self._lock.notify_all()
            return self._lock.wait_for(lambda: take != self._n_takes or self._has_all, timeout)

    @property
    def _has_all(self) -> bool:
        return all(done or name in self._complete for name, done in self._live.items())

    def admits(self, pulse_id: int) -> bool:
        """Say of the pulse of each frame of a live device, as it comes, whether it is in the window.

        Parameters
        ----------
        pulse_id : int
            In the order in which the frames come: the first that is admitted fixes where the window begins.
        """
        with self._lock:
            admitted = self.is_open and pulse_id >= self._chosen()
            if admitted and not self._fixed:
                admitted = pulse_id % self._every == 0
                if admitted:
                    self._first, self._fixed = pulse_id, True
            self._seen = max(self._seen, pulse_id)
            self._n_admitted += admitted
            waiting = tuple(self._waiting) if admitted else ()
        for status in waiting:
            status.progress(self._n_admitted, f"frame of pulse {pulse_id}")
        return admitted

    @property
    def is_open(self) -> bool:
        """Whether all devices of the point were triggered, and the live ones listen."""
        return self._triggered and all(name in self._tried or self._live[name] for name in self._live)

    @property
    def first(self) -> int:
        """The first pulse, as far as it is known."""
        with self._lock:
            return self._chosen()

    def settle(self, name: str) -> None:
        """Note that a live device has its frames, or has failed: it takes none any more."""
        with self._lock:
            for members in (self._live, self._around):
                if name in members:
                    members[name] = True
            self._lock.notify_all()
            self._tell()

    def settled(self, device: HasName, timeout: float) -> ActionStatus:
        """Return a status of who waits: done when no live device takes frames any more; it counts those.

        Parameters
        ----------
        device : HasName
            Which waits.
        timeout : float
            s without a frame after which it fails, with ServiceTimeout.
        """
        status = ActionStatus(device, "live frames of the same pulses", timeout, target=0)
        with self._lock:
            self._waiting.append(status)
            self._tell()
        return status

    def pulses(self, n_frames: int, every: int) -> PulseRange:
        """Return the pulses of a point; its first pulse is chosen now if it was not.

        Parameters
        ----------
        n_frames : int
            Of the point.
        every : int
            Pulses from one frame to the next.

        Returns
        -------
        PulseRange
            Both ends are frames.

        Raises
        ------
        ServiceUnreachable, WireError
            The pulse id had to be asked for, and could not be read.
        """
        first = self.first
        return PulseRange(first, first + (n_frames - 1) * every)

    def _chosen(self) -> int:
        if self._first is None:
            assert self._pulse_id is not None  # each device that joins brings one
            past = max(self._pulse_id.get(), self._seen)
            self._first = (past // self._every + 1) * self._every
        return self._first

    @property
    def _is_settled(self) -> bool:
        return self._triggered and all(self._live.values()) and all(self._around.values())

    def _tell(self) -> None:
        if self._is_settled:
            waiting, self._waiting = self._waiting, []
            for status in waiting:
                status.succeed()


def _key(pulse_id: PulseCounter) -> object:
    return getattr(pulse_id, "prefix", "") or id(pulse_id)

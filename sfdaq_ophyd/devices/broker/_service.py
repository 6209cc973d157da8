"""Service calls as ordinary messages: ``Msg("set", broker.service, Job(...))``, and a status to wait for.

A job has an id. Set again with the same id, as the RunEngine does when it replays messages after a pause, it
is not carried out a second time: the first status is returned, done or not.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bluesky.protocols import HasName
from ophyd import Device

from ...errors import Discarded
from .._status import GRACE, ActionStatus
from .._worker import Workers, ends_within

KEPT = 256
"""Jobs whose status is remembered."""

CALL_TIMEOUT = 120.0
"""s after which a job that says no longer limit has failed."""


@dataclass(frozen=True)
class Job:
    """One call with keyword arguments, in a thread of the device's.

    Attributes
    ----------
    timeout : float
        s until its status fails, whatever happens to the call.
    waits : bool
        The call takes long: its first argument is the `JobStatus`, to wait with and to tell how far it is.
    """

    call: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = CALL_TIMEOUT
    waits: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)

    @property
    def name(self) -> str:
        """What is called."""
        return self.call.__name__

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


@dataclass(frozen=True)
class Cancel:
    """End the jobs that have these ids, as far as they only wait; what was sent is not taken back."""

    ids: tuple[str, ...]


class JobStatus(ActionStatus):
    """Status of a job in a worker's thread, which waits with it and tells how far it is; can be given up."""

    def __init__(self, device: HasName, what: str, timeout: float, *, target: float = 1, unit: str = "steps"):
        self._over = threading.Event()
        self._ended: threading.Event | None = None
        self._committing, self._is_committed = threading.Lock(), False
        super().__init__(device, what, timeout, target=target, unit=unit)
        self.add_callback(lambda _: self._over.set())

    def begin(self, workers: Workers, action: Callable[[], object]) -> None:
        """Have `action` carried out; the status ends with it, and `result` is what it returned."""
        self._ended = workers.do(partial(self.outcome, action))

    @property
    def running(self) -> bool:
        """Whether there is still something to wait for."""
        return not (self.done or self._over.is_set())

    def commit(self) -> None:
        """Note that a request goes out: from now on the job ends with the reply. See `check`."""
        with self._committing:
            self.check()
            self._is_committed = True

    def give_up(self, timeout: float = 0.0) -> None:
        """End the waits of a job, unless its request is out; done then. Safe at any time, and twice.

        The thread, or the reply, is waited for `timeout` s.
        """
        with self._committing:
            if not self._is_committed:
                self._over.set()
        if self._over.is_set():
            self.succeed()
        if timeout and self._ended is not None:
            ends_within(self._ended, timeout)

    def show(self, current: float, target: float, seen: str) -> None:
        """Tell how far it is, in steps, and the last state seen."""
        self.target = target
        self.progress(current, seen)

    def wait_for(
        self, waiting: ActionStatus, show: Callable[[float, float, str], None] | None = None
    ) -> None:
        """Wait for another status and show how far that is; Discarded if the job was given up meanwhile.

        `show` takes its current, target and last seen; default is this status's own.
        """
        over = threading.Event()
        for status in (waiting, self):
            status.add_callback(lambda _: over.set())
        tell = show or self.show
        waiting.watch(lambda **kw: tell(kw["current"], kw["target"], waiting.last_seen))
        over.wait()
        if self._over.is_set():
            waiting.succeed()
            self.check()
        waiting.wait()

    def pause(self, seconds: float) -> None:
        """Let time go by; Discarded if the job was given up."""
        self._over.wait(seconds)
        self.check()

    def check(self) -> None:
        """Discarded if the job was given up."""
        if self._over.is_set():
            raise Discarded(f"{self.name}: given up")


class Service(Device):
    """The service calls of its parent, to be `set`; that has ``workers``, in whose threads they are made."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._kept: OrderedDict[str, JobStatus] = OrderedDict()

    def set(self, job: Job | Cancel) -> ActionStatus:
        """Carry out a job, once; the status's `result` is what the call returned. Or cancel other jobs."""
        if isinstance(job, Cancel):
            for key in job.ids:
                if key in self._kept:
                    self._kept[key].give_up()
            return ActionStatus.done_at_once(self.parent, "cancel")
        if job.id in self._kept:
            return self._kept[job.id]
        status = self._kept[job.id] = JobStatus(self.parent, job.name, job.timeout + GRACE)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        waiting = (status,) if job.waits else ()
        status.begin(self.parent.workers, partial(job.call, *waiting, **job.arguments))
        return status

    def give_up(self) -> None:
        """Let every job that only waits end. Safe at any time, and twice."""
        for status in self._kept.values():
            if not status.done:
                status.give_up()

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
from typing import Any

from ophyd import Device

from ...errors import Discarded, RequestError
from .._status import GRACE, ActionStatus

KEPT = 256
"""Jobs whose status is remembered."""

CALL_TIMEOUT = 120.0
"""s after which a job that says no longer limit has failed."""


@dataclass(frozen=True)
class Job:
    """One call.

    Parameters
    ----------
    call : str
        One of ``broker.service.calls``.
    arguments : mapping
        Its keyword arguments.
    timeout : float
        s until its status fails, whatever happens to the call.
    id : str
        Tells it from all others.
    """

    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = CALL_TIMEOUT
    id: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)

    def __repr__(self) -> str:
        return f"{self.call}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


class JobStatus(ActionStatus):
    """Status of a job.

    Attributes
    ----------
    result : object
        What the call returned; None until it is done.
    """

    result: Any = None


class Patience:
    """What a call that takes long is given: to wait with, and to tell how far it is.

    Parameters
    ----------
    status : JobStatus
    """

    def __init__(self, status: JobStatus):
        self._status = status
        self.cancelled = threading.Event()
        status.add_callback(lambda _: self.cancelled.set())

    def progress(self, current: float, target: float, seen: str) -> None:
        """Tell how far it is, and the last state seen."""
        self._status.target = target
        self._status.progress(current, seen)

    def wait_for(self, waiting: ActionStatus) -> None:
        """Wait for another status and show how far that is; Discarded, and that one ended, if given up."""
        over = threading.Event()
        for status in (waiting, self._status):
            status.add_callback(lambda _: over.set())
        waiting.watch(lambda **kw: self.progress(kw["current"], kw["target"], waiting.last_seen))
        over.wait()
        if self.cancelled.is_set():
            waiting.succeed()
            self.check()
        waiting.wait()

    def wait(self, seconds: float) -> None:
        """Wait; Discarded if the job was given up."""
        self.cancelled.wait(seconds)
        self.check()

    def check(self) -> None:
        """Discarded if the job was given up."""
        if self.cancelled.is_set():
            raise Discarded(f"{self._status.name}: given up")


class Service(Device):
    """The service calls of a broker device, to be `set`; see `calls` for their names.

    Its parent has ``procedures``, a mapping of name to ``function(patience, **arguments)``, and ``workers``.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._kept: OrderedDict[str, tuple[JobStatus, Patience]] = OrderedDict()

    @property
    def calls(self) -> tuple[str, ...]:
        """Names of the calls."""
        return tuple(self.parent.procedures)

    def set(self, job: Job) -> JobStatus:
        """Carry out a job, once.

        Returns
        -------
        JobStatus
            Ends with the call; its `result` is what the call returned.

        Raises
        ------
        RequestError
            There is no such call.
        """
        if job.call == "cancel":
            return self._cancel(job)
        if job.id in self._kept:
            return self._kept[job.id][0]
        function = self.parent.procedures.get(job.call)
        if function is None:
            raise RequestError("call", job.call, f"one of {', '.join(self.calls)}")
        status = JobStatus(self.parent, job.call, job.timeout + GRACE, unit="steps")
        patience = Patience(status)
        self._kept[job.id] = status, patience
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        self.parent.workers.do(lambda: self._work(function, job, status, patience))
        return status

    def _work(self, function: Callable, job: Job, status: JobStatus, patience: Patience) -> None:
        try:
            status.result = function(patience, **job.arguments)
        except Exception as exc:
            status.fail(exc)
        else:
            status.succeed()

    def _cancel(self, job: Job) -> JobStatus:
        """Let the jobs named by id end; what was sent already is not taken back."""
        for status, patience in [self._kept[key] for key in job.arguments["ids"] if key in self._kept]:
            patience.cancelled.set()
            status.succeed()
        done = JobStatus(self.parent, "cancel", GRACE)
        done.succeed()
        return done

    def give_up(self) -> None:
        """Let every job that only waits end. Safe at any time, and twice."""
        for status, patience in self._kept.values():
            if not status.done:
                patience.cancelled.set()
                status.succeed()

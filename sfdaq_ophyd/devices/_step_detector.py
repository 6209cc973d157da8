"""The stepping half of a detector: staging, one acquisition per trigger, and what gives it up."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ophyd import Component as Cpt
from ophyd import Device

from ..errors import DetectorStateError, Discarded, RequestError
from ..wire.frame import FrameFormat
from ._acquisition import Acquisition, Crew, LossPolicy, Rules
from ._assets import data_keys, event_columns
from ._frame_store import SYNC_PERIOD, FrameStore
from ._pulse_window import PulseWindow
from ._source import FrameSource, Request
from ._status import GRACE, ActionStatus, Setting, naming, whole_number
from ._store import PointStore

logger = logging.getLogger(__name__)

_together: WeakSet[StepDetector] = WeakSet()
"""Detectors that are staged, and those that were together with one of them."""

BUFFER_BYTES = 512 * 2**20
"""Frames that may wait between source and file, in bytes; at least 4 frames, at most 1000."""


class StepDetector(Device):
    """The verbs of a step scan, of a detector whose frames come to this process: see `Detector`.

    Parameters
    ----------
    source : FrameSource
        The detector itself, without ophyd.
    name : str
        Start of all data keys and file names.
    directory : str or Path
        Where files are made.
    threads : int
        Frames compressed at the same time.
    sync_period : float
        s after which points are on the disk itself (fsync); see `FrameStore`.
    **kwargs
        For `ophyd.Device`.

    Attributes
    ----------
    failure : Exception or None
        Of the staging, or of a point since then.
    """

    frames_per_trigger = Cpt(Setting, value=1, kind="config")
    timeout = Cpt(Setting, value=10.0, kind="config", doc="s without a new frame, on top of the exposure")
    loss_policy = Cpt(Setting, value=LossPolicy.STRICT.value, kind="config")
    max_retakes = Cpt(Setting, value=3, kind="config")

    source: FrameSource
    hinted: tuple[str, ...] = ()
    """Scalars that live plots show."""

    def __init__(
        self,
        *,
        source: FrameSource,
        name: str,
        directory: str | Path,
        threads: int = 2,
        sync_period: float = SYNC_PERIOD,
        **kwargs,
    ):
        self.source = source
        self.directory = Path(directory)
        self._threads, self._sync_period = threads, sync_period
        self._store: PointStore | None = None
        self._crew = Crew(name, lambda: self.is_staged)
        self.failure: Exception | None = None
        self._acquisition: Acquisition | None = None
        self._exposure: ActionStatus | None = None
        self._ready = False
        self._values: dict[str, Any] = {}
        self._values_time = 0.0
        super().__init__(name=name, **kwargs)

    def settings(self) -> Any:
        """Return what `FrameSource.open` needs; the signals as they are at stage."""
        return None

    # staging

    @property
    def is_staged(self) -> bool:
        """Whether the device is staged: settings of the run are fixed."""
        return self._store is not None

    def stage(self) -> list[object]:
        """Open the source and make ready; the hardware is as found if this fails."""
        self._check_signals()
        staged = super().stage()
        self.failure = None
        if not any(detector.is_staged for detector in _together):
            _together.clear()
        _together.add(self)
        try:
            frame_format = self.source.open(self.settings())
            self._store = self._new_store(frame_format, int(self.frames_per_trigger.get()))
        except BaseException as exc:
            if isinstance(exc, Exception):
                self.failure = naming(exc, self.name)
            self.unstage()
            raise
        self._ready = False
        self._values = {}
        return staged

    def _new_store(self, frame_format: FrameFormat, frames_per_point: int) -> PointStore:
        more = (self._threads, self._sync_period)
        return FrameStore(self.directory, self.name, frame_format, frames_per_point, *more)

    def unstage(self) -> list[object]:
        """Give up what is in flight, keep what was saved, leave the hardware as found. Safe twice.

        Everything is tried; the first failure is raised, unless the staging or a point failed before, here or
        at a detector staged together with this one: then it is logged, and noted on that.
        """
        problems: list[BaseException] = []
        for step in (self._give_up, self.source.close, self._close_store, self._crew.end):
            try:
                step()
            except BaseException as exc:
                problems.append(exc)
        unstaged = super().unstage()
        if problems:
            before = [detector.failure for detector in (self, *_together) if detector.failure is not None]
            if not before or not isinstance(problems[0], Exception):
                raise problems[0]
            logger.error("%s: while it was unstaged: %s", self.name, problems[0])
            before[0].add_note(f"{self.name}: and while it was unstaged: {problems[0]}")
        return unstaged

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _check_signals(self) -> None:
        whole_number(f"{self.name}.frames_per_trigger", self.frames_per_trigger.get(), 1)
        whole_number(f"{self.name}.max_retakes", self.max_retakes.get(), 0)
        if not self.timeout.get() > 0:
            raise RequestError(f"{self.name}.timeout", self.timeout.get(), "s above 0")
        if self.loss_policy.get() not in list(LossPolicy):
            raise RequestError(f"{self.name}.loss_policy", self.loss_policy.get(), ", ".join(LossPolicy))

    def _rules(self) -> Rules:
        fmt = self._need_stage("acquire").frame_format
        return Rules(
            timeout=float(self.timeout.get()),
            frame_time=fmt.frame_time,
            policy=LossPolicy(self.loss_policy.get()),
            max_retakes=int(self.max_retakes.get()),
            depth=min(1000, max(4, BUFFER_BYTES // fmt.frame_bytes)),
        )

    def _need_stage(self, verb: str, hint: str = "") -> PointStore:
        if self._store is None:
            more = f" ({hint})" if hint else ""
            raise DetectorStateError(f"{self.name}: {verb} needs a staged device; stage it first{more}")
        return self._store

    # step scans

    def trigger(self) -> ActionStatus:
        """Take one point of `frames_per_trigger` frames.

        Returns
        -------
        ActionStatus
            Done when the frames are on disk.
        """
        store = self._need_stage("trigger")
        if self._is_acquiring:
            raise DetectorStateError(f"{self.name}: trigger, while an acquisition is running")
        self._ready = False
        store.take_back_unsaved()
        n, rules = store.frames_per_point, self._rules()
        status = self._exposure = ActionStatus(self, "exposure", rules.longest(n) + GRACE, target=n)

        def success() -> None:
            self._values = {key: values[0] for key, values in self._columns(1).items()}
            self._values_time = time.time()
            self._ready = True
            status.succeed()

        self._acquire(
            Request(n, n), rules, on_progress=status.progress, on_success=success, on_failure=status.fail
        )
        return status

    @property
    def _is_acquiring(self) -> bool:
        return self._acquisition is not None and self._acquisition.running

    def _settle_with(self, window: PulseWindow | None, status: ActionStatus) -> None:
        """Tell a window when this device has its point, or has failed; not when it was given up."""
        if window is None:
            return

        def settle(status: ActionStatus) -> None:
            given_up = isinstance(status.exception(timeout=0), Discarded)
            if self._ready or not (status.success or given_up):
                window.settle(self.name)

        status.add_callback(settle)

    def _acquire(
        self,
        request: Request,
        rules: Rules,
        *,
        on_success: Callable[[], object],
        on_failure: Callable[[Exception], object],
        on_progress: Callable[[int, str], None],
        on_armed: Callable[[], None] = lambda: None,
    ) -> None:
        def end(exc: Exception | None) -> None:
            if exc is None:
                try:
                    on_success()
                except Exception as problem:
                    exc = problem
            if exc is not None and not isinstance(exc, Discarded):
                self.failure = naming(exc, self.name)
                on_failure(exc)  # of one given up, whoever did that says what becomes of the status

        self._acquisition = Acquisition(
            self.name,
            self.source,
            request,
            self._need_stage("acquire"),
            rules,
            self._crew,
            on_armed=on_armed,
            on_progress=on_progress,
            on_end=end,
        )

    def write_aside(self, status: ActionStatus, write: Callable[[], object]) -> ActionStatus:
        """Have settings written in the thread for that, after those before.

        Parameters
        ----------
        status : ActionStatus
            Ends when `write` does.
        write : callable
            What it raises fails the status.

        Returns
        -------
        ActionStatus
            The one given.
        """
        self._crew.writes.do(lambda: status.outcome(write)())
        return status

    @property
    def _tolerant(self) -> bool:
        return self.loss_policy.get() == LossPolicy.TOLERANT

    def read(self) -> OrderedDict:
        """Return ids and scalars of the point taken last; the image is external.

        Raises
        ------
        DetectorStateError
            There is no point: it was not triggered, it failed, or a pause gave it up.
        """
        if self._store is not None and not self._ready:
            raise DetectorStateError(f"{self.name}: read, but no point is there; trigger first")
        readings = super().read()
        for key, value in self._values.items():
            readings[f"{self.name}_{key}"] = {"value": value, "timestamp": self._values_time}
        return readings

    def describe(self) -> OrderedDict:
        """Return the data keys of `read`, and that of the image; the frames' keys once it was staged."""
        keys = super().describe()
        if self._store is not None:
            keys.update(self._frame_keys())
            self._store.described(keys)
        return keys

    def _frame_keys(self, flying: bool = False) -> dict:
        """Return the data keys of a point of a step scan, or of a fly scan."""
        store = self._need_stage("describe")
        return data_keys(self.name, store.frame_format, store.frames_per_point, self._tolerant)

    def _columns(self, n_points: int) -> dict[str, list]:
        """Return what the next points say beside their images, by column."""
        return event_columns(self._need_stage("read").columns(n_points), self._tolerant)

    @property
    def hints(self) -> dict:
        """A few scalars for live plots, never an image."""
        one = int(self.frames_per_trigger.get()) == 1
        return {"fields": [f"{self.name}_{key}" for key in self.hinted if one]}

    def _documents(self) -> list[tuple[str, dict]]:
        """Return the documents of the point taken last, which is on disk."""
        if not self._ready:
            return []
        store = self._need_stage("read")
        if not store.n_ready:
            raise DetectorStateError(f"{self.name}: this point is in an event already; trigger a new one")
        return store.documents(1)

    # interruptions

    def pause(self) -> None:
        """Give up the exposure in flight; the RunEngine triggers again. A complete point is kept."""
        self._give_up()

    def stop(self, *, success: bool = False) -> None:
        """Give up what is in flight. Safe at any time, and twice.

        Parameters
        ----------
        success : bool
            Whether its status ends well.
        """
        self._give_up(None if success else Discarded(f"{self.name}: stopped on request"))

    def _give_up(self, exc: Exception | None = None) -> None:
        """Discard the acquisition in flight, if any; its status ends, with `exc` if there is one."""
        acquisition, self._acquisition = self._acquisition, None
        try:
            if acquisition is not None:
                acquisition.discard()
        finally:
            exposure, self._exposure = self._exposure, None
            if exposure is not None:
                exposure.succeed() if exc is None else exposure.fail(exc)

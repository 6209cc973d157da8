"""Stepping: each trigger is one acquisition of so many pulses, and so is each retrieval of past ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ophyd import Component as Cpt

from ...clients import BrokerClient
from ...errors import DetectorStateError
from ...wire.pulse_id import PulseRange
from .._pulse_window import NextWindow, PulseWindow
from .._status import GRACE, ActionStatus
from ._flying import BrokerFlying
from ._run import INTEGERS, AcceptedAcquisition
from ._run_table import READ, RETAKEN
from ._service import JobStatus
from ._signals import NextPoint


class BrokerStepping(BrokerFlying):
    """Verbs of a step scan of `SfDaqBroker`, and what interrupts it."""

    client: BrokerClient

    next_point = Cpt(NextPoint, kind="omitted")
    next_window = Cpt(NextWindow, kind="omitted")

    _acquisition: JobStatus | None = None
    _taken: tuple[str | None, AcceptedAcquisition] | None = None
    _paused = _ready = _was_read = False

    def trigger(self) -> ActionStatus:
        """Take one acquisition of `n_pulses`; after a pause, one already asked for is kept.

        Where live devices take the same pulses (`same_pulses`), it is theirs that are asked for, once they
        have their frames; after a pause they take new ones, and so does the broker.

        Returns
        -------
        ActionStatus
            Counts pulses; done when the broker has taken the request.
        """
        if self._acquisition is not None and self._acquisition.running:
            raise DetectorStateError(f"{self.name}: trigger, while an acquisition is running")
        timeout = float(self.timeout.get())
        n_pulses = int(self.n_pulses.get())
        limit = 10 * timeout + GRACE  # of which pulses that are counted take nothing
        status = JobStatus(self, "acquisition", limit, target=n_pulses, unit="pulses")
        point, window = self.next_point.current, self.next_window.take()
        token = point.token if point is not None else None
        taken = self._taken_before(token)
        if taken is not None:
            if window is None or not window.has_live:
                self._ready = True
                status.succeed()
                return status
            taken.run.table.write(RETAKEN, taken.index)
        self._ready, self._paused = False, False
        every, same_run = self.check_settings().rate_multiplicator, self.runner.same_run()
        pulse_id = self.runner.pulse_id
        window = window or PulseWindow.of_one(self.name, pulse_id, every)

        def counted(current: float, target: float, _: str) -> None:
            self.runner.follower.resume()
            if target:
                status.progress(n_pulses * current // target, f"{current:g} of {target:g} machine pulses")
            else:
                status.progress(0, f"{current:g} live frames of the same pulses")

        def acquire() -> None:
            status.wait_for(window.settled(self, limit), counted)
            pulses = window.pulses(n_pulses, every)
            status.wait_for(pulse_id.wait_past(pulses.last), counted)
            status.commit()
            self.runner.follower.pause()
            run = self.runner.run_in_use(point, same_run)
            self._took(self.runner.acquire(pulses, point, run), token)

        self._acquisition = status
        status.begin(self.workers, acquire)
        return status

    def join_window(self, window: PulseWindow) -> PulseWindow:
        """Ask for the pulses of a window with the next trigger.

        Parameters
        ----------
        window : PulseWindow

        Returns
        -------
        PulseWindow
            Another one if that counts other pulses.
        """
        every = int(self.rate_multiplicator.get())
        return window.join(self.name, self.runner.pulse_id, every=every)

    def retrieve(
        self, status: JobStatus, start_pulse_id: int, stop_pulse_id: int, pulse_ids: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Get data of one range of pulses once it is over, for the run in use; `read` returns it.

        Parameters
        ----------
        status : JobStatus
            To wait with.
        start_pulse_id, stop_pulse_id : int
            Both ends included.
        pulse_ids : sequence of int
            Those to keep; default all.

        Returns
        -------
        dict
            What goes into the event.
        """
        pulses = PulseRange(start_pulse_id, stop_pulse_id)
        status.wait_for(self.runner.pulse_id.wait_past(pulses.last))
        run = self.runner.run_in_use(self.next_point.current, status.check)
        return self._took(self.runner.acquire(pulses, None, run, pulse_ids))

    def retrieve_again(self, status: JobStatus, **saved: Any) -> dict[str, Any]:
        """Get data of an old run once more; `read` returns it.

        Parameters
        ----------
        status : JobStatus
            To wait with.
        **saved
            See `BrokerRunner.acquire_again`.

        Returns
        -------
        dict
            What goes into the event.
        """
        return self._took(self.runner.acquire_again(self.next_point.current, status.check, **saved))

    def _took(self, accepted: AcceptedAcquisition, token: str | None = None) -> dict[str, Any]:
        self._taken, self._ready, self._was_read = (token, accepted), True, False
        return accepted.values

    def _taken_before(self, token: str | None) -> AcceptedAcquisition | None:
        """Return the acquisition of the point to take, if a pause made it be taken again: it is kept."""
        if self._taken is None or self._taken[1].run is not self.runner.run:
            return None
        same = self._taken[0] == token if token else self._paused and self._ready and not self._was_read
        return self._taken[1] if same else None

    @property
    def acquisition(self) -> AcceptedAcquisition | None:
        """The acquisition taken last, which `read` returns; None before the first of a stage."""
        return self._taken and self._taken[1]

    def read(self) -> OrderedDict:
        """Return the numbers, pulses and files of the acquisition taken last.

        Raises
        ------
        DetectorStateError
            There is none: not triggered, failed, or given up by a pause.
        """
        readings = super().read()
        if not self._ready or self._taken is None:
            raise DetectorStateError(f"{self.name}: read, but nothing was acquired; trigger first")
        accepted, self._was_read = self._taken[1], True
        accepted.run.table.write(READ, accepted.index)
        for key, value in accepted.values.items():
            readings[f"{self.name}_{key}"] = {"value": value, "timestamp": accepted.time}
        return readings

    def describe(self) -> OrderedDict:
        """Describe what `read` returns."""
        keys = super().describe()
        n_files = sum(bool(getattr(self, s).get()) for s in ("channels", "cameras", "pvs"))
        n_files += len(self.detectors.get())
        source = f"broker:{self.client.url}"
        for key in INTEGERS:
            keys[f"{self.name}_{key}"] = {
                "source": source,
                "dtype": "integer",
                "dtype_numpy": "<i8",
                "shape": [],
            }
        files = {"source": source, "dtype": "array", "dtype_numpy": "<U256", "shape": [n_files]}
        keys[f"{self.name}_files"] = files
        return keys

    @property
    def hints(self) -> dict:
        """Run and acquisition number."""
        return {"fields": [f"{self.name}_run_number", f"{self.name}_acquisition_number"]}

    # interruptions

    def pause(self) -> None:
        """Give up pulses still to come; an acquisition that was asked for is kept for the replay."""
        self._paused = True
        self._give_up()

    def resume(self) -> None:
        """Nothing to do: the RunEngine triggers again."""

    def stop(self, *, success: bool = False) -> None:
        """Give up what was not asked for yet. Safe at any time, and twice.

        Parameters
        ----------
        success : bool
            Of no use: nothing fails.
        """
        self._give_up()
        self._end_flight()

    def _give_up(self) -> None:
        acquisition = self._acquisition
        if acquisition is not None:
            acquisition.give_up(4 * float(self.timeout.get()))

    def _forget(self) -> None:
        self._acquisition, self._taken = None, None
        self._paused = self._ready = self._was_read = False
        self._is_declared, self.n_collected = False, 0
        self.next_point.current = None

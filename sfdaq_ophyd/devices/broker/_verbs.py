"""The verbs of the broker device: each trigger is one acquisition, a fly scan is one or more, and so on.

Everything between kickoff and complete, or so many points, is asked for as one request or more; so are past
pulses (`retrieve`). What was asked for is never taken back.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ophyd import Component as Cpt

from ...clients import BrokerClient
from ...errors import DetectorStateError, SfdaqError
from ...files.held_values import write_columns
from ...wire.broker import padded
from ...wire.pulse_id import MAX_PULSE_DISTANCE, PulseRange
from .._assets import FileAssets, column_in_hdf5, external_key
from .._flying import Flight, Flying
from .._pulse_window import NextWindow, PulseWindow
from .._status import GRACE, ActionStatus, whole_number
from .._worker import Workers
from ._run import INTEGERS, READ, RETAKEN, AcceptedAcquisition, BrokerRun
from ._runner import BrokerRunner
from ._service import JobStatus
from ._signals import BrokerSettings, NextPoint


@dataclass(frozen=True)
class FlownPoint:
    """One point of a fly scan: what its event, or the columns of a file, hold."""

    accepted: AcceptedAcquisition
    values: dict[str, Any]


@dataclass(kw_only=True)
class PulseFlight(Flight):
    """A fly scan of the broker, in its run if that has a number.

    Pulses from `first` to `last` were not asked for yet; None is for those of this moment. Points that were
    asked for and not collected are `rows`.
    """

    completed: JobStatus
    first: int
    last: int | None = None
    run: BrokerRun | None = None
    rows: deque[FlownPoint] = field(default_factory=deque)


class BrokerVerbs(BrokerSettings, Flying):
    """Verbs of `SfDaqBroker`, and what interrupts them.

    A fly scan that is not prepared records all pulses until it is completed, as one point per request.
    Prepared for `n` points, it takes exactly these, of `n_pulses` each, without a pulse between them. The DAQ
    records all the time: a pause changes nothing, and the pulses meanwhile are in the data.

    Bluesky's stubs collect numbers and pulses of the points as columns of a small file, ``NAME_flown_...``;
    `FlyGroup` as rows of events. The data themselves come before the run closes, in ``NAME_data``, as those
    of step scans do.
    """

    client: BrokerClient
    runner: BrokerRunner
    workers: Workers
    n_collected = 0

    next_point = Cpt(NextPoint, kind="omitted")
    next_window = Cpt(NextWindow, kind="omitted")

    _acquisition: JobStatus | None = None
    _retrieval: JobStatus | None = None
    _taken: tuple[str | None, AcceptedAcquisition] | None = None
    _paused = _ready = _was_read = False
    _n_points: int | None = None
    _flight: PulseFlight | None = None
    _is_declared = False

    # stepping

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
            status.wait_for(pulse_id.wait_past(self._last_written(pulses)), counted)
            status.commit()
            self.runner.follower.pause()
            run = self.runner.run_in_use(point, same_run)
            self._took(self.runner.acquire(pulses, point, run), token)

        self._acquisition = status
        status.add_callback(self._note_failure)
        status.begin(self.workers, acquire)
        return status

    def join_window(self, window: PulseWindow) -> PulseWindow:
        """Ask for the pulses of a window with the next trigger; of a new one if that counts other pulses.

        Parameters
        ----------
        window : PulseWindow
            That of all devices of the point.

        Returns
        -------
        PulseWindow
            This one, or the new one.

        Raises
        ------
        DetectorStateError
            The broker has no PV for pulse ids.
        """
        every = int(self.rate_multiplicator.get())
        return window.join(self.name, self.runner.pulse_id, every=every)

    def retrieve(
        self, status: JobStatus, start_pulse_id: int, stop_pulse_id: int, pulse_ids: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Get data of a range of pulses, or of `pulse_ids` in it, once it is over, for the run in use.

        Blocks until the broker has taken the request; the files come later.

        Parameters
        ----------
        status : JobStatus
            To wait with; it can be given up until the request is sent.
        start_pulse_id, stop_pulse_id : int
            Both are included.
        pulse_ids : sequence of int
            Only these; empty for all.

        Returns
        -------
        dict
            What goes into the event, as `read` has it, without the device's name in the keys.

        Raises
        ------
        RequestError
            The pulses, or the settings of the device, are none that the broker takes; nothing was sent.
        Discarded
            It was given up, or the run ended meanwhile; nothing was sent.
        DetectorStateError, ServiceTimeout
            There is no PV for pulse ids, or it stands still before the last pulse.
        BrokerRefused, RunNumberMismatch, UnknownOutcome, ServiceUnreachable
            As of `BrokerClient.retrieve_from_buffers`; the run's table tells which.
        """
        self._retrieval, same_run = status, self.runner.same_run()
        pulses = PulseRange(start_pulse_id, stop_pulse_id)
        status.wait_for(self.runner.pulse_id.wait_past(self._last_written(pulses)))
        status.commit()
        run = self.runner.run_in_use(self.next_point.current, same_run)
        return self._took(self.runner.acquire(pulses, None, run, pulse_ids))

    def retrieve_again(self, status: JobStatus, **saved: Any) -> dict[str, Any]:
        """Get data of an old run once more, as `BrokerRunner.acquire_again` does; else as `retrieve`.

        Parameters
        ----------
        status : JobStatus
            To wait with; it can be given up until the request is sent.
        **saved
            `path` and `changes` of `BrokerRunner.acquire_again`.

        Returns
        -------
        dict
            What goes into the event, as `read` has it, without the device's name in the keys.

        Raises
        ------
        RequestError, Discarded, BrokerRefused, RunNumberMismatch, UnknownOutcome, ServiceUnreachable
            As of `retrieve`.
        """
        self._retrieval, same_run = status, self.runner.same_run()
        status.commit()
        return self._took(self.runner.acquire_again(self.next_point.current, same_run, **saved))

    def _last_written(self, pulses: PulseRange) -> int:
        """Return the last pulse that has to be in the buffers: with PVs the server may add one to the range.

        It does so below 100 Hz, and the writer of PVs, which begins at once, fails if that pulse is to come.
        """
        every = int(self.rate_multiplicator.get())
        return pulses.last + bool(self.pvs.get() and every > 1 and pulses.last % every == 0)

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

    # flying

    def _prepare(self, settings: dict[str, Any]) -> None:
        self._n_points = whole_number(f"{self.name}.n_points", settings.get("n_points"), 1)
        self.n_collected = 0

    def kickoff(self) -> ActionStatus:
        """Note the first pulse, the next one that is a multiple of `rate_multiplicator`; done at once."""
        self._end_flight()
        rate = int(self.rate_multiplicator.get())
        first = (self.runner.pulse_id.get() // rate + 1) * rate
        completed = JobStatus(self, "fly scan", 30 * float(self.timeout.get()) + GRACE, unit="pulses")
        completed.hold()  # until it is to be completed, nobody is late
        completed.add_callback(self._note_failure)
        self._flight = PulseFlight(
            ActionStatus.done_at_once(self, "kickoff"),
            completed=completed,
            first=first,
            run=self.runner.run,
        )
        return self._flight.kicked_off

    def _complete(self) -> None:
        """Ask for the data up to now, or of the points prepared: one request, or one per 10 minutes."""
        if (flight := self._flight) is None:
            return
        status, same_run, points = flight.completed, self.runner.same_run(), self._points(flight.first)
        status.release()

        def counted(current: float, target: float, _: str) -> None:
            status.show(current, target, f"{current:g} of {target:g} machine pulses")

        def acquire() -> None:
            rate = int(self.rate_multiplicator.get())
            now = self.runner.pulse_id.get() // rate * rate
            flight.last = points[-1].last if points else max(flight.first, now)
            pulses = PulseRange(flight.first, flight.last)
            status.wait_for(self.runner.pulse_id.wait_past(self._last_written(pulses)), counted)
            status.commit()
            self._acquire_flight(flight, pulses, points, same_run)

        status.begin(self.workers, acquire)

    def _points(self, first: int) -> list[PulseRange]:
        """Return the pulses of each point that was prepared."""
        rate, n_pulses = int(self.rate_multiplicator.get()), int(self.n_pulses.get())
        step = n_pulses * rate
        return [
            PulseRange(first + k * step, first + (k + 1) * step - rate) for k in range(self._n_points or 0)
        ]

    def _acquire_flight(
        self, flight: PulseFlight, pulses: PulseRange, points: list[PulseRange], same_run: Callable[[], None]
    ) -> None:
        point = self.next_point.current
        run = flight.run = self.runner.run_in_use(point, same_run)
        for part, group in self._requests(pulses, points):
            flight.first = part.last + 1
            accepted = self.runner.acquire(part, point, run)
            for one in group:
                span = {"start_pulse_id": one.first, "stop_pulse_id": one.last}
                flight.rows.append(FlownPoint(accepted, accepted.values | span))

    def _requests(
        self, pulses: PulseRange, points: list[PulseRange]
    ) -> Iterator[tuple[PulseRange, list[PulseRange]]]:
        """Yield the pulses of each request, and those of its points: where none were prepared, it is one."""
        if not points:
            rate = int(self.rate_multiplicator.get())
            yield from ((part, [part]) for part in pulses.split(rate_multiplicator=rate))
        while points:
            n = sum(point.last - points[0].first <= MAX_PULSE_DISTANCE for point in points) or 1
            group, points = points[:n], points[n:]
            yield PulseRange(group[0].first, group[-1].last), group

    def describe_flown(self) -> dict:
        """Return the data keys of `read`."""
        return self.describe()

    def _external_keys(self) -> dict:
        self._is_declared = True
        keys = self.describe()
        return {self._flown_key(key): external_key(keys[f"{self.name}_{key}"]) for key in INTEGERS}

    def _flown_key(self, key: str) -> str:
        """Return the data key of a column; stock writers want a key external in all streams or in none."""
        return f"{self.name}_flown_{key}"

    @property
    def n_ready(self) -> int:
        """Points that were asked for, and not collected yet."""
        return 0 if self._flight is None else len(self._flight.rows)

    def get_index(self) -> int:
        """Return how many points the stream has, or may have now; counted anew after a `prepare`."""
        return self.n_collected + self.n_ready

    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next points, if they are to be columns of a file; see `Flying`."""
        rows = [self._flight.rows.popleft() for _ in range(n_points)] if self._flight else []
        self.n_collected += len(rows)
        self._page = None
        for accepted in {row.accepted.index: row.accepted for row in rows}.values():
            accepted.run.table.write(READ, accepted.index)
        if not rows:
            return
        if not in_file:
            columns = {key: [row.values[key] for row in rows] for key in rows[0].values}
            self._page = self._page_of(columns, [row.accepted.time for row in rows])
            return
        run = rows[0].accepted.run
        name = f"run{padded(run.number)}-{self.name}-flown-{rows[0].values['start_pulse_id']}.h5"
        path = self.runner.directory / run.pgroup / name
        write_columns(path, {key: [row.values[key] for row in rows] for key in INTEGERS})
        keys = {self._flown_key(key): column_in_hdf5(f"/{key}") for key in INTEGERS}
        yield from FileAssets(path, keys).documents(0, len(rows))

    def _end_flight(self) -> None:
        flight, self._flight = self._flight, None
        if flight is None:
            return
        flight.completed.give_up(4 * float(self.timeout.get()))
        last = flight.last
        if last is not None and last < flight.first:
            return
        with contextlib.suppress(SfdaqError):  # else it is not known how far the fly scan came
            now = self.runner.pulse_id.get()
            last = now if last is None else min(now, last)
        if last is None or flight.first <= last:
            self.runner.leave_out(flight.run, flight.first, last)

    # interruptions

    def pause(self) -> None:
        """Give up pulses still to come; an acquisition that was asked for is kept for the replay."""
        self._paused = True
        self._give_up()

    def resume(self) -> None:
        """Do nothing: the RunEngine triggers again."""

    def stop(self, *, success: bool = False) -> None:
        """Give up what was not asked for yet. Safe at any time, and twice; `success` is of no use."""
        self._give_up()
        if self._retrieval is not None:
            self._retrieval.give_up(4 * float(self.timeout.get()))
        self._end_flight()

    def _give_up(self) -> None:
        acquisition = self._acquisition
        if acquisition is not None:
            acquisition.give_up(4 * float(self.timeout.get()))

    def _forget(self, n_points: int | None = None) -> None:
        self._acquisition = self._retrieval = self._taken = None
        self._n_points = n_points
        self._paused = self._ready = self._was_read = False
        self._is_declared, self.n_collected = False, 0
        self.next_point.current = self.next_window.current = None

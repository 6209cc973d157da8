"""Flying: everything between kickoff and complete, or so many points, as one or more acquisitions."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...errors import SfdaqError
from ...files.held_values import write_columns
from ...wire.broker import padded
from ...wire.pulse_id import MAX_PULSE_DISTANCE, PulseRange
from .._assets import FileAssets, column_in_hdf5, external_key
from .._flying import Flight, Flying
from .._status import GRACE, ActionStatus, whole_number
from .._worker import Workers
from ._run import INTEGERS, AcceptedAcquisition, BrokerRun
from ._run_table import READ
from ._runner import BrokerRunner
from ._service import JobStatus
from ._signals import BrokerSettings


@dataclass(frozen=True)
class Row:
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
    rows: deque[Row] = field(default_factory=deque)


class BrokerFlying(BrokerSettings, Flying):
    """Verbs of a fly scan of `SfDaqBroker`.

    Unprepared, a flight records all pulses until it is completed, as one point per request. Prepared for `n`
    points, it takes exactly these, of `n_pulses` each, without a pulse between them. The DAQ records all the
    time: a pause changes nothing, and the pulses meanwhile are in the data.

    Bluesky's stubs collect numbers and pulses of the points as columns of a small file, ``NAME_flown_...``;
    `FlyGroup` as rows of events. The data themselves come before the run closes, in ``NAME_data``, as those
    of step scans do.
    """

    runner: BrokerRunner
    workers: Workers
    n_collected = 0

    _n_points: int | None = None
    _flight: PulseFlight | None = None
    _is_declared = False

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
            status.wait_for(self.runner.pulse_id.wait_past(pulses.last), counted)
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
        if not points:
            for part in pulses.split(rate_multiplicator=int(self.rate_multiplicator.get())):
                flight.first = part.last + 1
                accepted = self.runner.acquire(part, point, run)
                flight.rows.append(Row(accepted, accepted.values))
            return
        while points:
            n = sum(point.last - points[0].first <= MAX_PULSE_DISTANCE for point in points) or 1
            group, points = points[:n], points[n:]
            part = PulseRange(group[0].first, group[-1].last)
            flight.first = part.last + 1
            accepted = self.runner.acquire(part, point, run)
            for point in group:
                span = {"start_pulse_id": point.first, "stop_pulse_id": point.last}
                flight.rows.append(Row(accepted, accepted.values | span))

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

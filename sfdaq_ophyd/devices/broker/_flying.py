"""Flying: everything between kickoff and complete, or so many points, as one or more acquisitions."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...errors import DetectorStateError, Discarded
from ...files.held_values import write_columns
from ...limits import Limit
from ...wire.broker import padded
from ...wire.pulse_id import MAX_PULSE_DISTANCE, PulseRange
from .._assets import FileAssets, column_in_hdf5, external_key
from .._flying import OUR_PLAN
from .._status import GRACE, ActionStatus, whole_number
from .._worker import Workers
from ..pulse_id import PulseId
from ._run import AcceptedAcquisition
from ._run_table import READ
from ._runner import BrokerRunner
from ._settings import INTEGERS, BrokerSettings


class Acquisition:
    """The next `n_frames` frames, in a thread of their own.

    Given up before the pulses are over, nothing is asked for; after that the request is out, and it ends
    with the reply.

    Parameters
    ----------
    name : str
        Of the device.
    workers : Workers
        Give it its thread.
    pulse_id : PulseId
        Has ``get()`` and ``wait_past(pulse_id)``.
    choose : callable
        Returns the PulseRange to ask for.
    send : callable
        Called with the PulseRange once it is over; returns what `on_end` is given.
    on_progress : callable
        Called with (current, target) in machine pulses.
    before : callable, optional
        Returns the status that is waited for before the pulses are chosen.
    on_end : callable
        Called once, with (result, None) or (None, exception), in that thread.
    """

    def __init__(
        self,
        name: str,
        workers: Workers,
        pulse_id: PulseId,
        choose: Callable[[], PulseRange],
        send: Callable[[PulseRange], Any],
        *,
        on_progress: Callable[[float, float], None],
        on_end: Callable[[Any, Exception | None], None],
        before: Callable[[], ActionStatus] | None = None,
    ):
        self._name, self._pulse_id, self._choose, self._send = name, pulse_id, choose, send
        self._on_progress, self._on_end, self._before = on_progress, on_end, before
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._waiting: ActionStatus | None = None
        self._sent, self._running = False, True
        self._over = threading.Event()
        workers.do(self._run)

    @property
    def running(self) -> bool:
        """Whether pulses are still to come, or the reply is."""
        return self._running

    def give_up(self, timeout: float) -> bool:
        """Give up unless the request is out; then wait for its reply. Return whether it had been sent."""
        with self._lock:
            sent = self._sent
            self._given_up.set()
            if not sent and self._waiting is not None:
                self._waiting.succeed()
        limit = Limit(timeout)
        while not limit.wait(self._over):
            if limit.reached():
                break
        return sent

    def _run(self) -> None:
        try:
            result = self._acquire()
        except Exception as exc:
            self._end(None, exc)
        else:
            self._end(result, None)

    def _end(self, result: Any, exc: Exception | None) -> None:
        self._running = False  # before anyone who waits for the end can start the next one
        try:
            self._on_end(result, exc)
        finally:
            self._over.set()

    def _acquire(self) -> Any:
        if self._before is not None:
            self._wait_for(self._before())
        pulses = self._choose()
        self._wait_for(self._pulse_id.wait_past(pulses.last))
        with self._lock:
            self._check()
            self._sent = True
        return self._send(pulses)

    def _wait_for(self, status: ActionStatus) -> None:
        with self._lock:
            self._check()
            self._waiting = status
        status.watch(lambda **kw: self._on_progress(kw["current"], kw["target"]))
        status.wait()

    def _check(self) -> None:
        if self._given_up.is_set():
            raise Discarded(f"{self._name}: the acquisition was given up before its data were asked for")


@dataclass(frozen=True)
class Row:
    """One point of a fly scan: what its event, or the columns of a file, hold."""

    accepted: AcceptedAcquisition
    values: dict[str, Any]


class BrokerFlying(BrokerSettings):
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

    _n_points: int | None = None
    _first: int | None = None
    _flight: Acquisition | None = None
    _completed: ActionStatus | None = None
    _declared = False
    _n_collected = 0
    _page: list[Row] = []

    def prepare(self, value: Any) -> ActionStatus:
        """Say how many points the next fly scans of this staging take.

        Parameters
        ----------
        value : int or Mapping
            Points; or ``{"n_points": 100}``.

        Returns
        -------
        ActionStatus
            Done.

        Raises
        ------
        RequestError
            No whole number of points, 1 or more.
        """
        value = value.get("n_points") if isinstance(value, dict) else value
        self._n_points = whole_number(f"{self.name}.n_points", value, 1)
        self._n_collected = 0
        return self._done("prepare")

    def kickoff(self) -> ActionStatus:
        """Note the first pulse; done at once."""
        self._end_flight()
        rate = int(self.rate_multiplicator.get())
        self._first = (self.runner.pulse_id.get() // rate + 1) * rate
        self._rows: deque[Row] = deque()
        return self._done("kickoff")

    def complete(self) -> ActionStatus:
        """Ask for the data up to now, or of the points prepared; the same status each time.

        Returns
        -------
        ActionStatus
            Done when the broker has taken every request: one, or several for more than 10 minutes.
        """
        if self._first is None:
            raise DetectorStateError(f"{self.name}: complete, but no fly scan was kicked off")
        if self._completed is None:
            first, timeout = self._first, float(self.timeout.get())
            same_run, points = self.runner.same_run(), self._points(first)
            status = self._completed = ActionStatus(self, "fly scan", 30 * timeout + GRACE, unit="pulses")

            def counted(current: float, target: float) -> None:
                status.target = target
                status.progress(current, f"{current:g} of {target:g} machine pulses")

            def end(_: Any, exc: Exception | None) -> None:
                if exc is None or isinstance(exc, Discarded):
                    status.succeed()
                else:
                    status.fail(exc)

            def pulses() -> PulseRange:
                rate = int(self.rate_multiplicator.get())
                now = self.runner.pulse_id.get() // rate * rate
                last = points[-1].last if points else max(first, now)
                return PulseRange(first, last)

            self._flight = Acquisition(
                self.name,
                self.workers,
                self.runner.pulse_id,
                pulses,
                lambda pulses: self._acquire_flight(pulses, points, same_run),
                on_progress=counted,
                on_end=end,
            )
        return self._completed

    def _points(self, first: int) -> list[PulseRange]:
        """Return the pulses of each point that was prepared."""
        rate, n_pulses = int(self.rate_multiplicator.get()), int(self.n_pulses.get())
        step = n_pulses * rate
        return [
            PulseRange(first + k * step, first + (k + 1) * step - rate) for k in range(self._n_points or 0)
        ]

    def _acquire_flight(
        self, pulses: PulseRange, points: list[PulseRange], same_run: Callable[[], None]
    ) -> None:
        point = self.next_point.current
        run = self.runner.run_in_use(point, same_run)
        if not points:
            for part in pulses.split(rate_multiplicator=int(self.rate_multiplicator.get())):
                accepted = self.runner.acquire(part, point, run)
                self._rows.append(Row(accepted, accepted.values))
            return
        while points:
            n = sum(point.last - points[0].first <= MAX_PULSE_DISTANCE for point in points) or 1
            group, points = points[:n], points[n:]
            accepted = self.runner.acquire(PulseRange(group[0].first, group[-1].last), point, run)
            for point in group:
                span = {"start_pulse_id": point.first, "stop_pulse_id": point.last}
                self._rows.append(Row(accepted, accepted.values | span))

    def describe_flown(self) -> dict:
        """Return the data keys of `read`."""
        return self.describe()

    def describe_collect(self) -> dict:
        """Return the data keys of a point whose numbers are in a file.

        Raises
        ------
        DetectorStateError
            The stream was not declared, as with ``bp.fly``: bluesky collects no files then.
        """
        if self._completed is not None and not self._declared:
            raise DetectorStateError(
                f"{self.name}: collect needs a stream that was declared before: "
                f"bps.declare_stream({self.name}, name=..., collect=True). {OUR_PLAN}"
            )
        self._declared = True
        keys = self.describe()
        return {self._flown_key(key): external_key(keys[f"{self.name}_{key}"]) for key in INTEGERS}

    def _flown_key(self, key: str) -> str:
        """Return the data key of a column; stock writers want a key external in all streams or in none."""
        return f"{self.name}_flown_{key}"

    @property
    def n_ready(self) -> int:
        """Points that were asked for, and not collected yet."""
        return 0 if self._first is None else len(self._rows)

    def get_index(self) -> int:
        """Return how many points the stream has, or may have now; counted anew after a `prepare`."""
        return self._n_collected + self.n_ready

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict]]:
        """Yield the documents of points that were not collected yet; of a step scan there are none."""
        n_points = self.n_ready if index is None else min(self.n_ready, index - self._n_collected)
        yield from self.collect_flown(n_points, in_file=True)

    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next `n_points` points, if they are to be columns of a file.

        Else their rows come from `flown_pages`.
        """
        rows = [self._rows.popleft() for _ in range(n_points)]
        self._n_collected += len(rows)
        self._page = [] if in_file else rows
        for accepted in {row.accepted.index: row.accepted for row in rows}.values():
            accepted.run.table.write(READ, accepted.index)
        if not in_file or not rows:
            return
        run = rows[0].accepted.run
        name = f"run{padded(run.number)}-{self.name}-flown-{rows[0].values['start_pulse_id']}.h5"
        path = self.runner.directory / run.pgroup / name
        write_columns(path, {key: [row.values[key] for row in rows] for key in INTEGERS})
        keys = {self._flown_key(key): column_in_hdf5(f"/{key}") for key in INTEGERS}
        yield from FileAssets(path, keys).documents(0, len(rows))

    def flown_pages(self) -> Iterator[dict]:
        """Yield one partial event page: the points that `collect_flown` took just before."""
        rows, self._page = self._page, []
        if rows:
            data = {f"{self.name}_{key}": [row.values[key] for row in rows] for key in rows[0].values}
            stamps = [row.accepted.time for row in rows]
            now = [time.time()] * len(rows)
            yield {"time": now, "data": data, "timestamps": dict.fromkeys(data, stamps)}

    def _done(self, what: str) -> ActionStatus:
        status = ActionStatus(self, what, GRACE)
        status.succeed()
        return status

    def _end_flight(self) -> None:
        flight, self._flight = self._flight, None
        self._first, self._completed = None, None
        if flight is not None and flight.running:
            flight.give_up(4 * float(self.timeout.get()))

"""Flying: everything between kickoff and complete, as one or more acquisitions."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from ...errors import DetectorStateError, Discarded
from ...wire.pulse_id import PulseRange
from .._status import GRACE, ActionStatus
from ._acquisition import Acquisition
from ._broker_run import Asked
from ._run_table import READ


class BrokerFlying:
    """Verbs of a fly scan; a mixin of `SfDaqBroker`.

    The DAQ records all the time: a pause changes nothing, and the pulses meanwhile are in the data.
    """

    _first: int | None = None
    _flight: Acquisition | None = None
    _completed: ActionStatus | None = None

    def kickoff(self) -> ActionStatus:
        """Note the first pulse; done at once."""
        self._end_flight()
        rate = int(self.rate_multiplicator.get())
        self._first = (self.need_pulse_id().get() // rate + 1) * rate
        self._flown: deque[Asked] = deque()
        status = ActionStatus(self, "kickoff", GRACE)
        status.succeed()
        return status

    def complete(self) -> ActionStatus:
        """Note the last pulse and ask for the data; the same status each time.

        Returns
        -------
        ActionStatus
            Done when the broker has taken every request: one, or several for more than 10 minutes.
        """
        if self._first is None:
            raise DetectorStateError(f"{self.name}: complete, but no fly scan was kicked off")
        if self._completed is None:
            timeout = float(self.timeout.get())
            same_run = self.asking.same_run()
            status = self._completed = ActionStatus(self, "fly scan", 30 * timeout + GRACE, unit="pulses")

            def end(_: Any, exc: Exception | None) -> None:
                if exc is None or isinstance(exc, Discarded):
                    status.succeed()
                else:
                    status.fail(exc)

            self._flight = Acquisition(
                self.name,
                self.workers,
                self.need_pulse_id(),
                self._range_until_now,
                lambda pulses: self._ask_for_flight(pulses, same_run),
                on_progress=lambda current, target: None,
                on_end=end,
            )
        return self._completed

    def _range_until_now(self) -> PulseRange:
        rate = int(self.rate_multiplicator.get())
        return PulseRange(self._first, max(self._first, self.need_pulse_id().get() // rate * rate))

    def _ask_for_flight(self, pulses: PulseRange, same_run: Callable[[], None]) -> None:
        run = self.asking.use_run(self, go_on=same_run)
        for part in pulses.split(rate_multiplicator=int(self.rate_multiplicator.get())):
            self._flown.append(self.ask_for(part, run))

    def describe_collect(self) -> dict:
        """Return the data keys of `read`."""
        return self.describe()

    def collect_pages(self) -> Iterator[dict]:
        """Yield a page with the acquisitions asked for since the last one."""
        rows = []
        while self._first is not None and self._flown:
            rows.append(self._flown.popleft())
        if not rows:
            return
        for row in rows:
            row.run.table.write(READ, row.index)
        data = {f"{self.name}_{key}": [row.values[key] for row in rows] for key in rows[0].values}
        stamps = [row.time for row in rows]
        yield {"time": [time.time()] * len(rows), "data": data, "timestamps": dict.fromkeys(data, stamps)}

    def _end_flight(self) -> None:
        flight, self._flight = self._flight, None
        self._first, self._completed = None, None
        if flight is not None and flight.running:
            flight.give_up(4 * float(self.timeout.get()))

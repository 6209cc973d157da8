"""Everything a broker device can be asked to do by a plan, by name: see `Service`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import FilesMissing, FramesMissing, ServiceTimeout
from ...limits import Limit
from ._asking import Procedure
from ._data import data_streams
from ._hardware import Hardware
from ._jobs import Patience
from ._pedestals import Pedestals, Retrieving, pedestals_in_use
from ._preflight import demand, table
from ._run_table import COMPLETE, FAILED, arrays, is_gap_free

if TYPE_CHECKING:
    from ._device import SfDaqBroker


def procedures_of(device: SfDaqBroker) -> dict[str, Procedure]:
    """Return the calls of one device; each is ``function(patience, **arguments)``."""
    groups: tuple[Any, ...] = (
        RunControl(device),
        Retrieving(device),
        Pedestals(device),
        Hardware(device),
    )
    return {
        name: getattr(group, name)
        for group in groups
        for name in vars(type(group))
        if not name.startswith("_")
    }


PERIOD = 0.05


class RunControl:
    """Calls around a run.

    Parameters
    ----------
    device : SfDaqBroker
    """

    def __init__(self, device: SfDaqBroker):
        self._device = device

    def preflight(self, patience: Patience) -> str:
        """Return the table of checks; PreflightFailed if one failed."""
        checks = self._device.preflight()
        demand(self._device.name, checks)
        return table(checks)

    def run_facts(self, patience: Patience) -> dict[str, Any]:
        """Return what goes into every start document: pgroup, beamline, and the pedestals in use."""
        device = self._device
        pedestals = pedestals_in_use(device)
        found = {"pedestals": pedestals} if pedestals else {}
        return {"pgroup": device.pgroup.get(), "beamline": device.beamline, **found}

    def take_run_number(self, patience: Patience) -> dict[str, Any]:
        """Take a run number and return what goes into the start document."""
        device = self._device
        facts = {"beamline": device.beamline, "policy": "open_run"}
        run = device.asking.begin_run(device.pgroup.get(), facts)
        return {"run_number": run.number, **self.run_facts(patience)}

    def name_run(self, patience: Patience, uid: str) -> None:
        """Note the uid of Bluesky's run, for every request and the run table."""
        self._device.asking.name_run(uid)

    def wait_for_files(self, patience: Patience, uid: str) -> None:
        """Wait until no file is awaited any more; each of them has its own limit."""
        device, run = self._device, self._device.asking.run_of(uid)
        if run is None:
            return
        follower = device.asking.follower
        limit, last = Limit(float(device.file_timeout.get()) + 30), ()
        while left := follower.n_pending:
            now = left, follower.last_seen
            if now != last:
                limit.restart()
            patience.progress(max(0, run.n_asked - left), max(1, run.n_asked), now[1])
            if limit.reached():
                what = f"{device.name}: files of {left} acquisitions"
                raise ServiceTimeout(what, limit.seconds, now[1])
            last = now
            patience.wait(PERIOD)

    def streams(self, patience: Patience, uid: str) -> list[tuple[str, Any]]:
        """Return what is to be collected now: names of streams, and flyers that have flown.

        What was not asked for yet is given up, and a reply that is awaited is waited for.
        """
        self._device.stop()
        device, run = self._device, self._device.asking.run_of(uid)
        return data_streams(device.name, run.table) if run is not None else []

    def judge_run(self, patience: Patience, uid: str) -> None:
        """Use the run's number no more; fail if files or frames are missing."""
        device, run = self._device, self._device.asking.run_of(uid)
        device.asking.end_run()
        if run is None:
            return
        rows = run.table.rows()
        reasons = {
            path: why for row in rows if row["state"] == FAILED for path, why in row["failures"].items()
        }
        if reasons:
            raise FilesMissing(f"{device.name}: run {run.number}", reasons)
        for row in rows:
            if row["state"] == COMPLETE and row["read"] and not is_gap_free(row):
                worst = min(arrays(row), key=lambda found: found["n_got"])
                where = f"run {run.number}, acquisition {row['acquisition_number']}, {worst['key']}"
                raise FramesMissing(
                    f"{device.name}: {where}",
                    asked=worst["n_asked"],
                    got=worst["n_got"],
                    missing=worst["missing"],
                )

    def end_run(self, patience: Patience) -> None:
        """Use the run's number no more."""
        self._device.asking.end_run()

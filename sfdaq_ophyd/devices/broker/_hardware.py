"""Power and settings of detectors, the list of recorded PVs, user files, and the end of a pgroup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ophyd import EpicsSignalRO

from ...clients import BrokerClient
from ...errors import (
    BrokerRefused,
    DetectorStateError,
    RequestError,
    ServiceTimeout,
    SfdaqError,
    UnknownOutcome,
    shown_url,
)
from ...limits import Limit
from ...wire.broker import TRIGGER_RUNNING, TRIGGER_STOPPED
from ..debts import Debts
from ._service import JobStatus
from ._settings import Settings

RUNNING, STOPPED = "running", "stopped"


class Trigger:
    """What the trigger PV of a beamline shows, and the start of a trigger that was left stopped.

    Parameters
    ----------
    name : str
        Of the broker device.
    client : BrokerClient
    pv : EpicsSignalRO or None
        The event code of the trigger.
    directory : Path
        Where it is noted that the trigger is to be started.
    """

    def __init__(self, name: str, client: BrokerClient, pv: EpicsSignalRO | None, directory: Path):
        self._client, self._pv = client, pv
        self._debts = Debts(name, f"{shown_url(client.url)} trigger", directory)

    def runs(self) -> bool | None:
        """Whether the trigger runs; None if that is not known."""
        code = self._event_code()
        return code == TRIGGER_RUNNING if code in (TRIGGER_RUNNING, TRIGGER_STOPPED) else None

    def description(self) -> str:
        """Return what the PV shows, for a person."""
        pv, code = self._pv, self._event_code()
        if pv is None:
            return "No trigger PV was given to this device: look whether it is 254, running."
        if code is None:
            return f"The trigger PV {pv.pvname} cannot be read."
        state = "running" if code == TRIGGER_RUNNING else "NOT running: the beamline has no trigger"
        return f"The trigger PV {pv.pvname} is {code}: {state}."

    def start(self, detector: str) -> str:
        """Start a trigger that settings left stopped; else it is owed.

        Parameters
        ----------
        detector : str
            Whose settings.

        Returns
        -------
        str
            What came of it, for a person.
        """
        try:
            self._start(detector)
        except SfdaqError as exc:
            self._debts.owe(detector, left=STOPPED, back=RUNNING, reason=exc)
            return f"The trigger was left stopped, and could not be started again: {exc}"
        return "The trigger was left stopped, and has been started again."

    def pay(self) -> None:
        """Start the trigger if it is owed, and stands."""
        if self._debts.owed():
            self._debts.pay(lambda what: RUNNING if self.runs() else STOPPED, self._start_all)

    def _start_all(self, detectors: dict) -> None:
        self._start(next(iter(detectors)))

    def _start(self, detector: str) -> None:
        """Set times to what they are: a call that goes well starts the trigger, whatever it changes."""
        now = self._client.get_detector_settings(detector)
        times = {key: now[key] for key in ("delay", "exptime") if isinstance(now.get(key), int | float)}
        self._client.set_detector_settings(detector, times)

    def _event_code(self) -> int | None:
        try:
            return None if self._pv is None else int(self._pv.get(timeout=2, connection_timeout=2))
        except (TimeoutError, ValueError, TypeError):
            return None


PERIOD = 1.0
"""s between two polls: the server does one request at a time for all beamlines."""


class Hardware:
    """Calls for hardware and settings.

    Parameters
    ----------
    name : str
        Of the broker device.
    client : BrokerClient
    settings : callable
        Returns what the device's signals say now.
    trigger : Trigger
    """

    def __init__(self, name: str, client: BrokerClient, settings: Callable[[], Settings], trigger: Trigger):
        self.name, self._client, self._settings, self._trigger = name, client, settings, trigger

    def check_reachable(self, detector: str) -> list[int]:
        """Return the modules that answer on the network.

        Parameters
        ----------
        detector : str

        Returns
        -------
        list of int
            All of them.

        Raises
        ------
        DetectorStateError
            One does not.
        """
        pings = self._client.get_detector_pings(detector)
        if pings.unreachable:
            modules = ", ".join(map(str, pings.unreachable))
            raise DetectorStateError(
                f"{detector}: modules {modules} do not answer on the network: check power and network cables"
            )
        return list(pings.responding)

    def wait_until_running(self, status: JobStatus, detector: str, limit: float) -> None:
        """Wait until every module is in state running; a refusal meanwhile is normal.

        Parameters
        ----------
        status : JobStatus
            To wait with.
        detector : str
        limit : float
            s.

        Raises
        ------
        ServiceTimeout
            Some are not; with the states seen last.
        """

        def look() -> tuple[bool, str]:
            try:
                states = self._client.get_detector_status(detector)
            except BrokerRefused as exc:
                return False, exc.said
            return set(states) == {"running"}, str(states)

        hint = "Failures show on the status exchange, and in the log of the writer."
        self._poll(status, look, f"{detector} running", limit, hint)

    def wait_until_writing(self, status: JobStatus, detector: str, limit: float) -> None:
        """Wait until every module writes into the buffer.

        Parameters
        ----------
        status : JobStatus
            To wait with.
        detector : str
        limit : float
            s.

        Raises
        ------
        DetectorStateError
            Some modules do not, after `limit` s.
        ServiceTimeout
            Some do not, after `limit`.
        """

        def look() -> tuple[bool, str]:
            running = self._client.get_running_detectors()
            limping = (running.limping or {}).get(detector)
            if limping is not None:
                return False, f"limping: modules {list(limping.missing_modules)} do not write"
            return detector in running.running, "writes" if detector in running.running else "does not write"

        hint = "Limping: check the fibres of these modules. No data at all: is the trigger running?"
        self._poll(status, look, f"{detector} writing into the buffer", limit, hint)

    def set_detector_settings(self, detector: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """Change hardware settings.

        A failure tells what the trigger PV shows. The server leaves the beamline without trigger when it
        refuses a value: one that ran before, by its PV, is started again.

        Parameters
        ----------
        detector : str
        parameters : mapping
            Any of ``exptime``, ``delay`` (s), ``detector_mode``, ``gain_mode``.

        Returns
        -------
        dict of str to [old, new], or None
            None in the documented dialect, which does not tell.

        Raises
        ------
        BrokerRefused, UnknownOutcome
            With notes that tell what the trigger PV shows.
        """
        trigger = self._trigger
        ran_before = trigger.runs()
        try:
            changed = self._client.set_detector_settings(detector, parameters)
        except (BrokerRefused, UnknownOutcome) as exc:
            if isinstance(exc, BrokerRefused) and ran_before and trigger.runs() is False:
                exc.add_note(trigger.start(detector))
            exc.add_note(trigger.description())
            raise
        return None if changed is None else {name: list(pair) for name, pair in changed.items()}

    def update_pv_list(self, add: Sequence[str] = (), remove: Sequence[str] = ()) -> dict[str, list[str]]:
        """Read the list of recorded PVs, merge, and write it only if it changes.

        Parameters
        ----------
        add, remove : sequence of str

        Returns
        -------
        dict
            What was ``added`` and ``removed``.

        Raises
        ------
        RequestError
            A PV is in both.
        DetectorStateError
            Another list was stored.
        """
        both = sorted(set(add) & set(remove))
        if both:
            raise RequestError("add, remove", both, "each PV in one of them")
        old = self._client.get_pvlist()
        new = [pv for pv in dict.fromkeys([*old, *add]) if pv not in remove]
        if new != old:
            stored = self._client.set_pvlist(new)
            if stored != new:
                raise DetectorStateError(f"PV list: {stored} was stored instead of {new}")
        added, removed = [pv for pv in new if pv not in old], [pv for pv in old if pv not in new]
        return {"added": added, "removed": removed}

    def copy_user_files(self, run_number: int, files: Sequence[str]) -> dict[str, str]:
        """Copy files into ``aux/`` of a run.

        Parameters
        ----------
        run_number : int
        files : sequence of str
            Absolute paths that the server can read.

        Returns
        -------
        dict of str to str
            Source to destination.

        Raises
        ------
        DetectorStateError
            Some were not copied; it names them.
        """
        result = self._client.copy_user_files(self._settings().pgroup, run_number, files)
        if result.failed:
            reasons = "; ".join(f"{file}: {why}" for file, why in result.failed.items())
            raise DetectorStateError(f"{len(result.failed)} of {len(files)} files were not copied: {reasons}")
        return dict(result.copied)

    def _poll(
        self,
        status: JobStatus,
        look: Callable[[], tuple[bool, str]],
        what: str,
        seconds: float,
        hint: str,
    ) -> None:
        limit = Limit(seconds)
        while True:
            done, seen = look()
            status.show(float(done), 1, seen)
            if done:
                return
            if limit.reached():
                raise ServiceTimeout(f"{self.name}: {what}", seconds, seen, hint)
            status.pause(min(PERIOD, seconds / 10))

"""What plans ask for beside runs: power and settings of detectors, pedestals, recorded PVs, user files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophyd import EpicsSignalRO

from ...clients import BrokerClient
from ...clients.broker_transport import read_json
from ...errors import (
    BrokerRefused,
    DetectorStateError,
    FilesMissing,
    RequestError,
    ServiceTimeout,
    SfdaqError,
    UnknownOutcome,
    shown_url,
)
from ...files.daq_file import CLOSING
from ...files.storage import write_whole
from ...limits import Limit, asked_again, counted_time
from ...wire.broker import PEDESTALS, TRIGGER_RUNNING, TRIGGER_STOPPED
from ...wire.detector_name import DetectorName
from ..debts import Debts
from ._data_streams import FlownRows, text_row
from ._preflight import known_pedestals, pedestal_file
from ._run import Settings, request_labels
from ._service import JobStatus

RUNNING, STOPPED = "running", "stopped"

PERIOD = 1.0
"""s between two polls: the server does one request at a time for all beamlines."""

FILE_PERIOD = 0.2
"""s between two looks at the logs of a pedestal."""

BEGUN = "request for writer type pedestal"
"""In the first line of the log of a pedestal."""

MARGIN, MARGIN_PER_MODULE = 10.0, 5.0
"""s on top of what the server announces, where nothing but time can tell that a pedestal is done."""


LOOK_BACK = 35.0
"""s after a restart began in which the server may tell what was written before it: it looks 30 s back, and
modules stop up to 4 s after the trigger."""

CONNECTING, CONNECTED = 2.0, 0.05
"""s for the trigger PV to connect, when it is read first and later: an absent one is waited for once."""

READING = 2.0
"""s for the trigger PV to tell its value."""


class Trigger:
    """What the trigger PV of a beamline shows, and the start of a trigger that was left stopped.

    That it is still to be started is noted in a directory; `pv` is its event code, where that is known.
    """

    def __init__(self, name: str, client: BrokerClient, pv: EpicsSignalRO | None, directory: Path):
        self._client, self._pv = client, pv
        self._patience = CONNECTING
        self._n_stops, self._is_watched = 0, False
        self._told: object = None
        self._debts = Debts(name, f"{shown_url(client.url)} trigger", directory)

    def runs(self) -> bool | None:
        """Whether the trigger runs; None if that is not known."""
        code = self._event_code()
        return code == TRIGGER_RUNNING if code in (TRIGGER_RUNNING, TRIGGER_STOPPED) else None

    def n_stops(self) -> int:
        """Return how often the trigger was seen to be stopped, which is counted from the first call on."""
        if self._pv is not None and not self._is_watched:
            self._is_watched = True
            self._pv.subscribe(self._changed, run=False)
            self._event_code()  # the IOC has the subscription before it answers
        return self._n_stops

    def _changed(self, value: object = None, **_: object) -> None:
        before, self._told = self._told, value
        self._n_stops += before == TRIGGER_RUNNING and value == TRIGGER_STOPPED

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
        """Start a trigger that settings of a detector left stopped, else owe it; return what came of it."""
        try:
            self._start(detector)
        except SfdaqError as exc:
            self._debts.owe(detector, left=STOPPED, back=RUNNING, reason=exc)
            return f"The trigger was left stopped, and could not be started again: {exc}"
        return "The trigger was left stopped, and has been started again."

    def pay(self) -> None:
        """Start the trigger if it is owed, and stands."""
        if self._debts.owed(surely=True):
            self._debts.pay(lambda what: RUNNING if self.runs() else STOPPED, self._start_all)

    def _start_all(self, detectors: dict) -> None:
        self._start(next(iter(detectors)))

    def _start(self, detector: str) -> None:
        """Set times to what they are: a call that goes well starts the trigger, whatever it changes.

        A delay of 0 stays out where the documented dialect would pass it over.
        """
        now = self._client.get_detector_settings(detector)
        times = {key: time for key in ("delay", "exptime") if isinstance(time := now.get(key), int | float)}
        if times.get("delay") == 0 and self._client.dialect == "documented":
            del times["delay"]
        self._client.set_detector_settings(detector, times)

    def _event_code(self) -> int | None:
        if (pv := self._pv) is None:
            return None
        patience, self._patience = self._patience, CONNECTED
        try:
            return int(
                asked_again(lambda: pv.get(timeout=READING, connection_timeout=patience), READING + patience)
            )
        except (TimeoutError, ValueError, TypeError):
            return None


@dataclass(frozen=True)
class QueuedPedestal:
    """A pedestal that was queued: the id of its request, and the s it takes at least."""

    request_id: str
    seconds: float


@dataclass
class QueuedRestart:
    """A restart of a detector that was queued.

    Attributes
    ----------
    was_running, was_writing : bool
        Whether all modules were in state running before, and any wrote into the buffer.
    n_stops : int
        Stops of the trigger until then.
    begun : float, optional
        When the restart was seen to have begun, s of counted time.
    """

    was_running: bool
    was_writing: bool
    n_stops: int
    begun: float | None = None


class Hardware:
    """Calls for hardware, pedestals, recorded PVs and user files; their limits are in s.

    Those that wait take the `JobStatus` to wait with.

    Parameters
    ----------
    name : str
        Of the broker device.
    client : BrokerClient
    settings : callable
        Returns what the device's signals say now.
    event_code : EpicsSignalRO or None
        Of the beamline's trigger.
    directory : Path
        Where it is noted which pedestal was taken by which run, and whether the trigger is to be started.
    """

    def __init__(
        self,
        name: str,
        client: BrokerClient,
        settings: Callable[[], Settings],
        event_code: EpicsSignalRO | None,
        directory: Path,
    ):
        self.name, self._client, self._settings, self._directory = name, client, settings, directory
        self.trigger = Trigger(name, client, event_code, directory)

    # detectors

    def check_reachable(self, detector: str) -> list[int]:
        """Return the modules of a detector, all of which answer on the network.

        Parameters
        ----------
        detector : str
            E.g. ``"JF01T03V01"``.

        Returns
        -------
        list of int
            Their numbers.

        Raises
        ------
        DetectorStateError
            Some do not answer; the message has their numbers.
        """
        pings = self._client.get_detector_pings(detector)
        if pings.unreachable:
            modules = ", ".join(map(str, pings.unreachable))
            raise DetectorStateError(
                f"{detector}: modules {modules} do not answer on the network: check power and network cables"
            )
        return list(pings.responding)

    def power_on_detector(self, detector: str) -> QueuedRestart:
        """Queue a restart of a detector; a refusal to tell its states is one that is not configured.

        Parameters
        ----------
        detector : str
            E.g. ``"JF01T03V01"``.

        Returns
        -------
        QueuedRestart
            For `wait_until_running` and `wait_until_writing`.

        Raises
        ------
        BrokerRefused, UnknownOutcome
            As of `BrokerClient.power_on_detector`.
        """
        n_stops = self.trigger.n_stops()
        try:
            was_running = set(self._client.get_detector_status(detector)) == {"running"}
        except BrokerRefused:
            was_running = False
        running = self._client.get_running_detectors()
        was_writing = detector in (*running.running, *(running.limping or ()))
        self._client.power_on_detector(detector)
        return QueuedRestart(was_running, was_writing, n_stops)

    def wait_until_running(
        self, status: JobStatus, detector: str, limit: float, restart: QueuedRestart
    ) -> None:
        """Wait until a restart is over and every module is in state running; a refusal meanwhile is normal.

        A detector that ran before is in state running until its restart begins, which may be queued for long:
        it has to be seen in another state, or the trigger to be stopped. Where the trigger can be seen, it
        has to run again.

        Parameters
        ----------
        status : JobStatus
            Is shown what is seen, and can be given up.
        detector : str
            E.g. ``"JF01T03V01"``.
        limit : float
            Longest wait, s.
        restart : QueuedRestart
            What `power_on_detector` returned.

        Raises
        ------
        ServiceTimeout
            Some are not, or the restart was not seen to begin; with what was seen last.

        Notes
        -----
        See wire reference sf-daq-broker, section 9.
        """

        def note_begun(sign: bool) -> None:
            if sign and restart.begun is None:
                restart.begun = counted_time()

        def look() -> tuple[int, str]:
            note_begun(self.trigger.n_stops() > restart.n_stops)
            stands = self.trigger.runs() is False  # asked after the stops were counted, and before the states
            try:
                states = self._client.get_detector_status(detector)
            except BrokerRefused as exc:
                note_begun(restart.was_running)
                return 0, exc.said
            if set(states) != {"running"}:
                note_begun(restart.was_running)
                return 0, str(states)
            note_begun(not restart.was_running)
            if restart.begun is None:
                return 0, f"{states} as before: the restart was not seen to begin"
            if stands:
                return 0, f"{states}, but the trigger of the beamline is stopped"
            return 1, str(states)

        hint = "Failures show on the status exchange, and in the log of the writer."
        self._poll(status, look, f"{detector} running", limit, hint)

    def wait_until_writing(
        self, status: JobStatus, detector: str, limit: float, restart: QueuedRestart
    ) -> None:
        """Wait until every module of a detector writes into the buffer.

        Of a detector that wrote before its restart the server says so for 30 s after it has stopped: it is to
        be seen not to write, or that time has to be over.

        Parameters
        ----------
        status : JobStatus
            Is shown what is seen, and can be given up.
        detector : str
            E.g. ``"JF01T03V01"``.
        limit : float
            Longest wait, s.
        restart : QueuedRestart
            What `power_on_detector` returned, after `wait_until_running`.

        Raises
        ------
        ServiceTimeout
            Some do not; the message tells which, and where to look.
        """
        has_stopped = not restart.was_writing
        begun = counted_time() if restart.begun is None else restart.begun

        def look() -> tuple[int, str]:
            nonlocal has_stopped
            has_stopped = has_stopped or counted_time() - begun >= LOOK_BACK
            running = self._client.get_running_detectors()
            limping = (running.limping or {}).get(detector)
            if limping is not None:
                return 0, f"limping: modules {list(limping.missing_modules)} do not write"
            if detector not in running.running:
                has_stopped = True
                return 0, "does not write"
            if not has_stopped:
                return 0, "writes, as before: the server looks 30 s back"
            return 1, "writes"

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
        trigger = self.trigger
        ran_before = trigger.runs()
        try:
            changed = self._client.set_detector_settings(detector, parameters)
        except (BrokerRefused, UnknownOutcome) as exc:
            if isinstance(exc, BrokerRefused) and ran_before and trigger.runs() is False:
                exc.add_note(trigger.start(detector))
            exc.add_note(trigger.description())
            raise
        return None if changed is None else {name: list(pair) for name, pair in changed.items()}

    # pedestals

    def begin_pedestal(
        self, detectors: Sequence[str], pedestalmode: bool = False, run_uid: str = ""
    ) -> QueuedPedestal:
        """Queue a pedestal.

        Parameters
        ----------
        detectors : sequence of str
            E.g. ``["JF01T03V01"]``. The beam must be off them.
        pedestalmode : bool
            The detectors switch their gains themselves.
        run_uid : str
            Of Bluesky's run, stored with the request; empty outside of one.

        Returns
        -------
        QueuedPedestal
            For `wait_for_pedestal`.

        Raises
        ------
        RequestError, BrokerRefused, UnknownOutcome
            As of `BrokerClient.take_pedestal`.
        """
        settings, labels = self._settings(), request_labels(run_uid)
        seconds = self._client.take_pedestal(
            settings.pgroup,
            list(detectors),
            rate_multiplicator=int(settings.rate_multiplicator),
            pedestalmode=pedestalmode,
            extra=labels,
        )
        return QueuedPedestal(labels["client_request_id"], seconds)

    def wait_for_pedestal(
        self,
        status: JobStatus,
        pedestal: QueuedPedestal,
        detectors: Sequence[str],
        limit: float,
        run_uid: str = "",
    ) -> dict[str, Any]:
        """Wait until the log of each detector says that it is done: the best evidence there is.

        Where ``/sf`` is not mounted here, this waits for the announced time and a margin, which is a guess.

        Parameters
        ----------
        status : JobStatus
            Is shown what is seen, and can be given up.
        pedestal : QueuedPedestal
            What `begin_pedestal` returned.
        detectors : sequence of str
            The same as there.
        limit : float
            Longest wait, s.
        run_uid : str
            Noted with the pedestals, by which later runs name those in use.

        Returns
        -------
        dict
            ``files``, the evaluated pedestal of each detector; and ``evidence``, how it is known.

        Raises
        ------
        FilesMissing
            A writer failed; with its own words. Or another pedestal was asked for within the same second, and
            both have the same files.
        ServiceTimeout
            Not all are done after `limit` s; with what was seen last.

        Notes
        -----
        See wire reference sf-daq-broker, section 8.
        """
        root = self._client.sf_root
        if root is None or not root.is_dir():
            n_modules = sum(DetectorName.parse(name).n_modules for name in detectors)
            seconds = pedestal.seconds + MARGIN + MARGIN_PER_MODULE * n_modules
            seen = f"/sf is not mounted here: waiting {seconds:g} s, a guess"
            status.show(0, 1, seen)
            status.pause(min(seconds, limit))
            if seconds > limit:
                raise ServiceTimeout(f"{self.name}: pedestal", limit, seen)
            return {"files": {}, "evidence": f"{seconds:g} s went by: a guess, /sf is not mounted here"}
        stem: Path | None = None
        done: dict[str, str] = {}

        def look() -> tuple[int, str]:
            nonlocal stem
            stem = stem or self._own_stem(root, pedestal.request_id)
            seen = self._look_at_pedestal(stem, pedestal.request_id, detectors, done)
            return len(done), seen

        self._poll(status, look, "pedestal", limit, target=len(detectors), period=FILE_PERIOD)
        path = pedestal_file(self._directory, self._settings().pgroup)
        facts = {name: {"file": file, "run_uid": run_uid, "time": time.time()} for name, file in done.items()}
        write_whole(path, json.dumps(known_pedestals(path) | facts, indent=1))
        return {"files": done, "evidence": "the writer's logs"}

    def pedestal_row(self, result: Mapping[str, Any]) -> FlownRows:
        """Return what is to be collected of `wait_for_pedestal`: each detector's file, and the evidence."""
        files = {f"{name}_pedestal": file for name, file in result["files"].items()}
        return text_row("primary", self.name, files | {"pedestal_evidence": result["evidence"]})

    def _own_stem(self, root: Path, request_id: str) -> Path | None:
        """Find ``<stamp>`` of our request: the newest files first."""
        pgroup = self._settings().pgroup
        paths = sorted(root.glob(f"*/data/{pgroup}/raw/{PEDESTALS}/*.json"), reverse=True)
        for path in paths[:50]:
            if read_json(path).get("client_request_id") == request_id:  # of one being written, nothing
                return path.with_suffix("")
        return None

    def _look_at_pedestal(
        self, stem: Path | None, request_id: str, detectors: Sequence[str], done: dict[str, str]
    ) -> str:
        """Put the files of detectors that are done into `done`, and return what is seen of the others.

        They are evaluated once the request has its pulse ids; what lies there before is of another pedestal.
        """
        if stem is None:
            return "queued, not begun"
        request = read_json(stem.with_name(f"{stem.name}.json"))  # of one being written, nothing
        is_ours = not request or request.get("client_request_id") == request_id
        common = _lines(stem.with_name(f"{stem.name}.log"))
        if not is_ours or sum(BEGUN in line for line in common) > 1:
            reason = "another pedestal was asked for within the same second and writes the same files"
            raise FilesMissing(self.name, {f"{stem}.*": reason})
        seen = [common[-1] if common else "queued"]
        for name in detectors if "start_pulseid" in request else ():
            raw = stem.with_name(f"{stem.name}.{name}.h5")
            lines = _lines(stem.with_name(f"{stem.name}.{name}.log"))
            if raw.with_name(f"{raw.name}.err").exists():
                last = lines[-1] if lines else "no log"
                raise FilesMissing(self.name, {str(raw): f"the writer failed: {last}"})
            result = raw.with_name(f"{stem.name}.{name}.res.h5")
            if lines and CLOSING in lines[-1]:
                if not result.exists():
                    raise FilesMissing(self.name, {str(result): f"no result; log: {lines[-2:]}"})
                done[name] = str(result)
            elif lines:
                seen.append(f"{name}: {lines[-1]}")
        return "; ".join(seen)

    # PVs and files

    def update_pv_list(self, add: Sequence[str] = (), remove: Sequence[str] = ()) -> dict[str, list[str]]:
        """Read the list of recorded PVs, merge, write it only if it changes; return ``added``, ``removed``.

        Parameters
        ----------
        add, remove : sequence of str
            Names of PVs; those in the list already, or not in it, change nothing.

        Returns
        -------
        dict of str to list of str
            What has really changed, under ``added`` and ``removed``.

        Raises
        ------
        RequestError
            A PV is in both.
        DetectorStateError
            Another list was stored.

        Notes
        -----
        See wire reference sf-daq-broker, section 3.9.
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
            A run of the pgroup that has data already.
        files : sequence of str
            Absolute paths that the server can read.

        Returns
        -------
        dict of str to str
            Source to destination.

        Raises
        ------
        DetectorStateError
            Some were not copied; the message has them with the server's reasons. The others are copied.

        Notes
        -----
        See wire reference sf-daq-broker, section 10.2.
        """
        result = self._client.copy_user_files(self._settings().pgroup, run_number, files)
        if result.failed:
            reasons = "; ".join(f"{file}: {why}" for file, why in result.failed.items())
            raise DetectorStateError(f"{len(result.failed)} of {len(files)} files were not copied: {reasons}")
        return dict(result.copied)

    def _poll(
        self,
        status: JobStatus,
        look: Callable[[], tuple[int, str]],
        what: str,
        seconds: float,
        hint: str = "",
        *,
        target: int = 1,
        period: float | None = None,
    ) -> None:
        """Look until all of `target` are done; `look` returns how many are, and what is seen."""
        limit = Limit(seconds)
        while True:
            n_done, seen = look()
            status.show(n_done, target, seen)
            if n_done == target:
                return
            if limit.reached():
                raise ServiceTimeout(f"{self.name}: {what}", seconds, seen, hint)
            status.pause(min(PERIOD if period is None else period, seconds / 10))


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []

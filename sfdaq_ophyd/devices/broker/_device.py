"""The sf-daq broker as a detector: each trigger is one acquisition of `n_pulses`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ophyd import Component as Cpt

from ...clients import BrokerClient, StatusListener
from ...errors import DetectorStateError, Discarded, RequestError
from ...wire.broker import BEAMLINES, Dialect
from ...wire.pulse_id import PulseRange
from .._pulse_window import NextWindow, PulseWindow
from .._status import GRACE, ActionStatus
from .._worker import Workers
from ..pulse_id import PulseId
from ._flying import Acquisition, BrokerFlying
from ._hardware import Hardware, Trigger
from ._late_registration import Catalog, register_late
from ._pedestals import Pedestals
from ._preflight import Check, Preflight, demand, table
from ._run import AcceptedAcquisition
from ._run_table import READ, RETAKEN
from ._runner import BrokerRunner
from ._scan_info import NextPoint
from ._service import JobStatus, Service
from ._settings import acquisition_keys, pulse_id_of, signal_of


class SfDaqBroker(BrokerFlying):
    """Record detectors, channels, cameras and PVs through the sf-daq broker.

    One run number per Bluesky run, one acquisition per trigger. A trigger is done when the broker has taken
    the request; the files come later, are followed in the background, and are registered in the run before
    it closes by the preprocessor `run_number_wrapper`: part of the ``sf_`` plans, installed by
    `sfdaq_ophyd.setup`; without it, by `register_late`. Contacts nothing when made.

    Parameters
    ----------
    url : str
        E.g. ``http://sf-daq:10002``.
    slow_url : str, optional
        Default is the next port.
    name : str
    pgroup : str
        E.g. ``p12345``.
    pulse_id : str or PulseId, optional
        The PV; default is that of `beamline`. Without one, nothing is acquired.
    beamline : str
        Goes into the start document, and chooses the PV.
    detectors : mapping or sequence of str
        Names to parameters, or names.
    channels, cameras, pvs : sequence of str
    n_pulses, rate_multiplicator : int
    user_tag : str
    directory : str or Path
        Where run tables and aligned views are kept.
    sf_root : str or Path
        Where the DAQ's ``/sf`` is mounted here.
    register : {"run", "late"}
        When files are registered: before the run closes, or afterwards by `register_late`.
    check : bool
        Pre-flight checks at every stage.
    dialect : {"current", "documented", "auto"}
    beam_rate : str, optional
        PV of the beam's repetition rate, for the pre-flight check.
    event_code : str, optional
        PV of the beamline's trigger, to tell its state when a change of settings fails.
    status_exchange : str, optional
        RabbitMQ of the DAQ, e.g. ``amqp://sf-daq:5672``: failures of writers are heard at once. Needs the
        extra ``rabbitmq``.
    client : BrokerClient, optional
        In place of one made from the URLs.

    Examples
    --------
    ::

        sfdaq = SfDaqBroker("http://sf-daq:10002", name="sfdaq", pgroup="p12345", beamline="bernina",
                            detectors=["JF01T03V01"])
        RE(sf_count([sfdaq], 5))
    """

    service = Cpt(Service, kind="omitted")
    next_point = Cpt(NextPoint, kind="omitted")
    next_window = Cpt(NextWindow, kind="omitted")

    def __init__(
        self,
        url: str,
        slow_url: str | None = None,
        *,
        name: str,
        pgroup: str,
        pulse_id: str | PulseId | None = None,
        beamline: str = "",
        detectors: Mapping[str, Mapping] | tuple | list = (),
        channels=(),
        cameras=(),
        pvs=(),
        n_pulses: int = 1,
        rate_multiplicator: int = 1,
        user_tag: str = "",
        directory: str | Path = "sfdaq-runs",
        sf_root: str | Path = "/sf",
        register: str = "run",
        check: bool = True,
        dialect: Dialect | Literal["auto"] = "current",
        beam_rate: str | None = None,
        event_code: str | None = None,
        status_exchange: str | None = None,
        client: BrokerClient | None = None,
        **kwargs: Any,
    ):
        if beamline and beamline not in BEAMLINES:
            raise RequestError("beamline", beamline, f"one of {', '.join(BEAMLINES)}")
        if register not in ("run", "late"):
            raise RequestError("register", register, "'run' or 'late'")
        self.client = client or BrokerClient(url, slow_url, dialect, sf_root=sf_root)
        super().__init__(name=name, **kwargs)
        self.beamline, self.register, self.check = beamline, register, check
        given = {
            "pgroup": pgroup,
            "detectors": dict(detectors) if isinstance(detectors, Mapping) else {d: {} for d in detectors},
            "channels": list(channels),
            "cameras": list(cameras),
            "pvs": list(pvs),
            "n_pulses": n_pulses,
            "rate_multiplicator": rate_multiplicator,
            "user_tag": user_tag,
        }
        for signal, value in given.items():
            getattr(self, signal).put(value)
        self.pulse_id = pulse_id_of(pulse_id, beamline, f"{name}_pulse_id")
        self.beam_rate = signal_of(beam_rate, f"{name}_beam_rate")
        self.event_code = signal_of(event_code, f"{name}_event_code")
        listener = None if status_exchange is None else StatusListener(status_exchange)
        folder = Path(directory)
        self.runner = BrokerRunner(
            name,
            self.client,
            self.settings,
            self.pulse_id,
            folder,
            beamline=beamline,
            warns_alone=register != "late",
            listener=listener,
        )
        self.pedestals = Pedestals(name, self.client, self.settings, folder)
        self.beam_trigger = Trigger(name, self.client, self.event_code, folder)
        self.hardware = Hardware(name, self.client, self.settings, self.beam_trigger)
        self.workers = Workers(f"{name} at the broker")
        self._acquisition: Acquisition | None = None
        self._taken: tuple[str | None, AcceptedAcquisition] | None = None
        self._forget()

    # staging

    def stage(self) -> list[object]:
        """Check that everything a run needs is there; no run number is taken.

        A trigger that settings left stopped, and that could not be started then, is started.

        Raises
        ------
        RequestError
            A signal is wrong.
        PreflightFailed
        """
        self.check_settings()
        self.beam_trigger.pay()
        if self.check:
            self.pass_preflight()
        self._forget()
        return super().stage()

    def unstage(self) -> list[object]:
        """Give up what was not asked for yet; files asked for are still followed. Safe twice."""
        try:
            self.stop()
            self.service.give_up()
        finally:
            self.runner.end_run()
            self._forget()
            self._n_points = None
            unstaged = super().unstage()
        return unstaged

    def preflight(self) -> list[Check]:
        """Check broker, pgroup, detectors, tag, pulse id, rate and pedestals; only reads."""
        preflight = Preflight(self.client, self._measure_pulse_rate, self.beam_rate and self.beam_rate.get)
        return preflight.run(self.check_settings(), float(self.max_pedestal_age.get()))

    def pass_preflight(self) -> str:
        """Return the table of checks; PreflightFailed if one failed."""
        checks = self.preflight()
        demand(self.name, checks)
        return table(checks)

    def _measure_pulse_rate(self) -> float:
        return self.runner.pulse_id.check(timeout=float(self.timeout.get()), n_pulses=3)

    def destroy(self) -> None:
        """Follow no more files, and listen no more."""
        self.runner.follower.forget()
        if self.runner.listener is not None:
            self.runner.listener.close()
        super().destroy()

    # step scans

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
        status = ActionStatus(self, "acquisition", limit, target=n_pulses, unit="pulses")
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

        def counted(current: float, target: float) -> None:
            self.runner.follower.resume()
            if target:
                status.progress(n_pulses * current // target, f"{current:g} of {target:g} machine pulses")
            else:
                status.progress(0, f"{current:g} live frames of the same pulses")

        def send(pulses: PulseRange) -> AcceptedAcquisition:
            self.runner.follower.pause()
            return self.runner.acquire(pulses, point, self.runner.run_in_use(point, same_run))

        def end(accepted: AcceptedAcquisition | None, exc: Exception | None) -> None:
            if accepted is not None:
                self._took(accepted, token)
            if exc is None or isinstance(exc, Discarded):
                status.succeed()  # or given up on purpose, by a pause or the end of the plan
            else:
                status.fail(exc)

        self._acquisition = Acquisition(
            self.name,
            self.workers,
            pulse_id,
            lambda: window.pulses(n_pulses, every),
            send,
            on_progress=counted,
            on_end=end,
            before=lambda: window.settled(self, limit),
        )
        return status

    def join_window(self, window: PulseWindow) -> PulseWindow:
        """Ask for the pulses of a window with the next trigger."""
        every = int(self.rate_multiplicator.get())
        return window.join(self.name, self.runner.pulse_id, every=every)

    def streams(self, uid: str) -> list[tuple[str, Any]]:
        """Return what is to be collected of a run now: names of streams, and flyers that have flown.

        What was not asked for yet is given up, and a reply that is awaited is waited for.
        """
        self.stop()
        return self.runner.streams(uid)

    def retrieve(self, status: JobStatus, **pulses: Any) -> dict[str, Any]:
        """Get data of past pulses, for the run in use: see `BrokerRunner.acquire_past`; `read` returns it."""
        return self._took(self.runner.acquire_past(status, self.next_point.current, **pulses))

    def retrieve_again(self, status: JobStatus, **saved: Any) -> dict[str, Any]:
        """Get data of an old run once more: see `BrokerRunner.acquire_again`; `read` returns it."""
        return self._took(self.runner.acquire_again(status, self.next_point.current, **saved))

    def _took(self, accepted: AcceptedAcquisition, token: str | None = None) -> dict[str, Any]:
        self._taken, self._ready, self._was_read = (token, accepted), True, False
        return accepted.values

    def _taken_before(self, token: str | None) -> AcceptedAcquisition | None:
        """Return the acquisition of the point to take, if a pause made it be taken again: it is kept."""
        if self._taken is None or self._taken[1].run is not self.runner.run:
            return None
        same = self._taken[0] == token if token else self._paused and self._ready and not self._was_read
        return self._taken[1] if same else None

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
        keys.update(acquisition_keys(self.name, f"broker:{self.client.url}", n_files))
        return keys

    @property
    def hints(self) -> dict:
        """Run and acquisition number."""
        return {"fields": [f"{self.name}_run_number", f"{self.name}_acquisition_number"]}

    def register_late(self, catalog: Catalog, timeout: float = 600.0) -> dict[str, list[str]]:
        """Register files of closed runs in `catalog`, also those of an earlier session that crashed.

        Parameters
        ----------
        catalog : EmbeddedCatalog
            With the runs.
        timeout : float
            s for files that are still awaited.

        Returns
        -------
        dict of str to list of str
            Uid of each run to the streams added to it.

        Raises
        ------
        ServiceTimeout
            Files are still awaited; call it again.
        """
        limits = {"file_timeout": float(self.file_timeout.get()), "timeout": timeout}
        return register_late(self.name, self.runner.closed_tables(), catalog, **limits)

    # interruptions

    def pause(self) -> None:
        """Give up pulses still to come; an acquisition that was asked for is kept for the replay."""
        self._paused = True
        self._give_up()

    def resume(self) -> None:
        """Nothing to do: the RunEngine triggers again."""

    def stop(self, *, success: bool = False) -> None:
        """Give up what was not asked for yet. Safe at any time, and twice."""
        self._give_up()
        self._end_flight()

    def _give_up(self) -> None:
        acquisition = self._acquisition
        if acquisition is not None:
            acquisition.give_up(4 * float(self.timeout.get()))

    def _forget(self) -> None:
        self._acquisition, self._taken = None, None
        self._paused = self._ready = self._was_read = False
        self._declared, self._n_collected = False, 0
        self.next_point.current = None

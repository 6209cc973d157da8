"""The sf-daq broker as a detector: each trigger is one acquisition of `n_pulses`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from ophyd import Component as Cpt
from ophyd import EpicsSignalRO

from ...clients import BrokerClient, StatusListener
from ...errors import PreflightFailed, RequestError
from ...wire.broker import BEAMLINES, Dialect
from .._worker import Workers
from ..pulse_id import PulseId
from ._data_streams import RunCatalog, register_late
from ._hardware import Hardware
from ._preflight import PreflightCheck, checks_of, table
from ._runner import BrokerRunner
from ._service import Service
from ._verbs import BrokerVerbs


class SfDaqBroker(BrokerVerbs):
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
        Goes into the start document, and chooses the PVs.
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
        PV of the beamline's trigger, to tell its state when a change of settings fails, or a detector is
        restarted. Default is that of `beamline`; "" is none.
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
        if pulse_id is None and beamline:
            pulse_id = BEAMLINES[beamline].pulse_id_pv
        if isinstance(pulse_id, str):
            pulse_id = PulseId(pulse_id, name=f"{name}_pulse_id")
        self.pulse_id = pulse_id
        self.beam_rate = EpicsSignalRO(beam_rate, name=f"{name}_beam_rate") if beam_rate else None
        if event_code is None and beamline:
            event_code = BEAMLINES[beamline].event_code_pv
        self.event_code = EpicsSignalRO(event_code, name=f"{name}_event_code") if event_code else None
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
        self.hardware = Hardware(name, self.client, self.settings, self.event_code, folder)
        self.workers = Workers(f"{name} at the broker", lambda: self.is_staged)
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
        self._join_together()
        try:
            self.check_settings()
            self.hardware.trigger.pay()
            if self.check:
                self.pass_preflight()
            self._forget(self._n_points)
            return super().stage()
        except Exception as exc:
            self.failure = exc
            raise

    def _ending(self) -> tuple[Callable[[], object], ...]:
        return self.stop, self.service.give_up, self.runner.end_run, self.workers.end, self._forget

    def preflight(self) -> list[PreflightCheck]:
        """Check broker, pgroup, detectors, tag, pulse id, rate and pedestals; only reads."""

        def pulse_rate() -> float:
            return self.runner.pulse_id.check(timeout=float(self.timeout.get()), n_pulses=3)

        beam_rate = self.beam_rate and self.beam_rate.get
        return checks_of(
            self.client, self.check_settings(), pulse_rate, beam_rate, float(self.max_pedestal_age.get())
        )

    def pass_preflight(self) -> str:
        """Return the table of checks; PreflightFailed if one failed."""
        checks = self.preflight()
        failed = {check.what: f"{check.found}. {check.fix}" for check in checks if check.ok is False}
        if failed:
            raise PreflightFailed(self.name, failed, table(checks))
        return table(checks)

    def destroy(self) -> None:
        """Follow no more files, and listen no more."""
        self.runner.follower.forget()
        if self.runner.listener is not None:
            self.runner.listener.close()
        super().destroy()

    # the data of a run

    def streams(self, uid: str) -> list[tuple[str, Any]]:
        """Return what is to be collected of Bluesky's run `uid` now: names of streams, and flown flyers.

        What was not asked for yet is given up, and a reply that is awaited is waited for.
        """
        self.stop()
        return self.runner.streams(uid)

    def register_late(self, catalog: RunCatalog, timeout: float = 600.0) -> dict[str, list[str]]:
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

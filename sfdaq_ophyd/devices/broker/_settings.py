"""What is asked for with every acquisition: config signals, and the request made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device
from ophyd.device import Staged

from ...errors import RequestError
from ...wire.broker_request import RetrieveRequest
from ...wire.pulse_id import PulseRange, check_rate_multiplicator, check_whole
from .._status import Setting
from ._run_table import CHANNELS


class JsonSignal(Setting):
    """A signal that holds lists or dicts; in documents it is JSON text."""

    def describe(self) -> dict:
        """Describe the text."""
        return {self.name: {"source": f"SIM:{self.name}", "dtype": "string", "shape": []}}

    def read(self) -> dict:
        """Return the text."""
        return {self.name: {"value": json.dumps(self.get()), "timestamp": self.timestamp}}


@dataclass(frozen=True)
class Settings:
    """What is asked for with every acquisition: the values of the signals of `BrokerSettings`."""

    pgroup: str
    n_pulses: int
    rate_multiplicator: int
    detectors: Mapping[str, Mapping[str, Any]]
    channels: Sequence[str]
    cameras: Sequence[str]
    pvs: Sequence[str]
    user_tag: str
    append_user_tag: bool
    tolerate_missing: bool
    tolerate_missing_channels: bool
    file_timeout: float
    max_pedestal_age: float
    timeout: float

    def request(
        self,
        pulses: PulseRange,
        *,
        run_number: int | None = None,
        scan_info: Mapping[str, Any] | None = None,
        selected_pulse_ids: Sequence[int] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> RetrieveRequest:
        """Return the request for pulses.

        Parameters
        ----------
        pulses : PulseRange
        run_number : int, optional
        scan_info : mapping, optional
        selected_pulse_ids : sequence of int
        extra : mapping, optional
            Fields that the broker only stores.

        Returns
        -------
        RetrieveRequest

        Raises
        ------
        RequestError
            It names the setting that is wrong.
        """
        return RetrieveRequest(
            pgroup=self.pgroup,
            pulses=pulses,
            run_number=run_number,
            rate_multiplicator=self.rate_multiplicator,
            detectors=self.detectors,
            channels=self.channels,
            cameras=self.cameras,
            pvs=self.pvs,
            user_tag=self.user_tag or None,
            append_user_tag_to_data_dir=bool(self.user_tag) and bool(self.append_user_tag),
            scan_info=scan_info,
            selected_pulse_ids=selected_pulse_ids,
            extra=extra or {},
        )

    def check(self, name: str) -> RetrieveRequest:
        """Return a request with made-up pulses.

        Parameters
        ----------
        name : str
            Of the device.

        Returns
        -------
        RetrieveRequest

        Raises
        ------
        RequestError
            It names the signal that is wrong.
        """
        rate = check_rate_multiplicator(self.rate_multiplicator)
        n_pulses = check_whole(self.n_pulses, f"{name}.n_pulses")
        for limit in ("file_timeout", "timeout"):
            seconds = getattr(self, limit)
            if not isinstance(seconds, Real) or not 0 < float(seconds) < float("inf"):
                raise RequestError(f"{name}.{limit}", seconds, "a number of s above 0")
        try:
            return self.request(PulseRange.next_frames(0, n_pulses, rate))
        except RequestError as exc:
            raise RequestError(f"{name}.{exc.field}", exc.value, exc.expected) from exc

    def tolerates(self, source: str) -> bool:
        """Say of a source whether its file may lack frames, or channels.

        Parameters
        ----------
        source : str

        Returns
        -------
        bool
        """
        return bool(self.tolerate_missing_channels if source in CHANNELS else self.tolerate_missing)


class BrokerSettings(Device):
    """Signals that say what each acquisition asks for; fixed while the device is staged.

    Attributes
    ----------
    pgroup : str
    n_pulses : int
        Frames per trigger; at rate multiplicator f they are f machine pulses apart.
    rate_multiplicator : int
        The detectors run at 100 Hz divided by this.
    detectors : dict
        Name to parameters, ``{}`` for the defaults.
    channels, cameras, pvs : list of str
        Beam-synchronous channels, camera images (``:FPICTURE``), EPICS PVs.
    user_tag : str
        Empty for none.
    append_user_tag : bool
        The tag goes into the name of the run's directory.
    tolerate_missing : bool
        Pulses without a frame of a detector are marked as gaps; otherwise (the default) they fail the run.
    tolerate_missing_channels : bool
        A channel, camera or PV that is absent, not at every pulse, or of another form than before costs that
        channel alone, with a warning and a mark (the default); otherwise it fails the run.
    file_timeout : float
        s after which a file is given up that shows nothing new, while its writer brings none that was asked
        for before it either.
    max_pedestal_age : float
        Oldest pedestal the pre-flight check accepts, s; 0 accepts any, and none.
    timeout : float
        s the pulse id may stand still, and the broker may be silent.
    """

    pgroup = Cpt(Setting, value="", kind="config")
    n_pulses = Cpt(Setting, value=1, kind="config")
    rate_multiplicator = Cpt(Setting, value=1, kind="config")
    detectors = Cpt(JsonSignal, value={}, kind="config")
    channels = Cpt(JsonSignal, value=[], kind="config")
    cameras = Cpt(JsonSignal, value=[], kind="config")
    pvs = Cpt(JsonSignal, value=[], kind="config")
    user_tag = Cpt(Setting, value="", kind="config")
    append_user_tag = Cpt(Setting, value=False, kind="config")
    tolerate_missing = Cpt(Setting, value=False, kind="config")
    tolerate_missing_channels = Cpt(Setting, value=True, kind="config")
    file_timeout = Cpt(Setting, value=180.0, kind="config")
    max_pedestal_age = Cpt(Setting, value=0.0, kind="config")
    timeout = Cpt(Setting, value=10.0, kind="config")

    @property
    def is_staged(self) -> bool:
        """Whether the device is staged: its settings are fixed."""
        return self._staged is not Staged.no

    def settings(self) -> Settings:
        """Return what the signals say now."""
        return Settings(**{field.name: getattr(self, field.name).get() for field in fields(Settings)})

    def check_settings(self) -> RetrieveRequest:
        """Check every signal as the first request will; return that request, with made-up pulses.

        Raises
        ------
        RequestError
            A signal is wrong; it names the signal.
        """
        return self.settings().check(self.name)


INTEGERS = (
    "run_number",
    "acquisition_number",
    "unique_acquisition_number",
    "start_pulse_id",
    "stop_pulse_id",
)

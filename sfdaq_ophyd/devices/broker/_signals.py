"""The signals of the broker device: its settings, and what a plan tells it before a trigger."""

from __future__ import annotations

import json
from dataclasses import fields

from ophyd import Component as Cpt
from ophyd import Device
from ophyd.device import Staged

from ...wire.broker_request import RetrieveRequest
from .._pulse_window import Told
from .._status import Setting
from ._run import Settings
from ._scan_info import Point


class JsonSignal(Setting):
    """A signal that holds lists or dicts; in documents it is JSON text."""

    def describe(self) -> dict:
        """Describe the text."""
        return {self.name: {"source": f"SIM:{self.name}", "dtype": "string", "shape": []}}

    def read(self) -> dict:
        """Return the text."""
        return {self.name: {"value": json.dumps(self.get()), "timestamp": self.timestamp}}


class NextPoint(Told):
    """Takes the `Point` that the next trigger is for."""

    current: Point | None = None


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

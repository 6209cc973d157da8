"""What is asked for with every acquisition: config signals, and the request made of them."""

from __future__ import annotations

import json
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device
from ophyd.device import Staged

from ...errors import RequestError
from ...wire.broker_request import RetrieveRequest
from ...wire.pulse_id import PulseRange, check_rate_multiplicator
from .._setting import Setting


class JsonSignal(Setting):
    """A signal that holds lists or dicts; in documents it is JSON text."""

    def describe(self) -> dict:
        """Describe the text."""
        return {self.name: {"source": f"SIM:{self.name}", "dtype": "string", "shape": []}}

    def read(self) -> dict:
        """Return the text."""
        return {self.name: {"value": json.dumps(self.get()), "timestamp": self.timestamp}}


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

    def request(self, pulses: PulseRange, **more: Any) -> RetrieveRequest:
        """Return the request for `pulses`; RequestError names the signal that is wrong."""
        tag = self.user_tag.get()
        return RetrieveRequest(
            pgroup=self.pgroup.get(),
            pulses=pulses,
            rate_multiplicator=self.rate_multiplicator.get(),
            detectors=self.detectors.get(),
            channels=self.channels.get(),
            cameras=self.cameras.get(),
            pvs=self.pvs.get(),
            user_tag=tag or None,
            append_user_tag_to_data_dir=bool(tag) and bool(self.append_user_tag.get()),
            **more,
        )

    def check_settings(self) -> RetrieveRequest:
        """Check every signal as the first request will; return that request, with made-up pulses.

        Raises
        ------
        RequestError
        """
        rate = check_rate_multiplicator(self.rate_multiplicator.get())
        n_pulses = self.n_pulses.get()
        if isinstance(n_pulses, bool) or n_pulses != int(n_pulses) or n_pulses < 1:
            raise RequestError(f"{self.name}.n_pulses", n_pulses, "a whole number of at least 1")
        for name in ("file_timeout", "timeout"):
            value = getattr(self, name).get()
            if not 0 < value < float("inf"):
                raise RequestError(f"{self.name}.{name}", value, "a number of s above 0")
        try:
            return self.request(PulseRange.next_frames(0, int(n_pulses), rate))
        except RequestError as exc:
            raise RequestError(f"{self.name}.{exc.field}", exc.value, exc.expected) from exc

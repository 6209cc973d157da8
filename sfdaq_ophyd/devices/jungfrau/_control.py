"""Control of the detector itself while it is staged. The streams alone need none: the detector runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...clients import BrokerClient
from ...errors import (
    BrokerRefused,
    DetectorStateError,
    RequestError,
    ServiceUnreachable,
    SfdaqError,
    shown_url,
)
from ...wire.broker_parameters import check_hardware_settings, check_modules
from ..debts import Debts

POWER = "power"


class HardwareControl(Protocol):
    """What a service that controls the detector does for a staged `Jungfrau`.

    Both calls are bounded in time and raise an `SfdaqError` if they fail.

    Attributes
    ----------
    in_force : Mapping
        The detector's settings while it is prepared, for the run's record; values fit for JSON.
    """

    in_force: Mapping[str, Any]

    def prepare(self) -> None:
        """Find the detector as it is, remember it, and have it send frames."""

    def restore(self) -> None:
        """Leave the detector as `prepare` found it. Safe twice, and without `prepare`."""


class _Hardware(Protocol):
    def set_detector_settings(self, detector: str, parameters: Mapping[str, Any]) -> object:
        """Change settings; a failure says what the trigger shows, if the device was told its PV."""


class _Runner(Protocol):
    @property
    def directory(self) -> Path:
        """Where what is to be remembered is kept."""


class Broker(Protocol):
    """What `BrokerControl` uses of an `SfDaqBroker`, which the session or the user hands in."""

    client: BrokerClient

    @property
    def hardware(self) -> _Hardware:
        """Changes that stop the trigger of the beamline."""

    @property
    def runner(self) -> _Runner:
        """Knows the folder of the beamline's runs."""


class BrokerControl:
    """Settings and power of a Jungfrau through the sf-daq broker, while the device is staged.

    Staging reads the settings, changes those that differ, and unstaging sets these back. A change stops the
    trigger of the whole beamline for 8 to 9 s, at stage and again at unstage; where nothing differs nothing
    is sent. What could not be set back is not changed; what cannot be set back at unstage (the broker is
    away) is owed, said in the log, and set back at the next stage or unstage.

    Parameters
    ----------
    broker : SfDaqBroker
        Of the beamline.
    detector_name : str
        E.g. ``JF01T03V01``.
    settings : mapping
        Any of ``exptime`` and ``delay`` (s), ``detector_mode``, ``gain_mode``; may be replaced between
        stagings.
    power_on : sequence of int
        Modules that are off, and have power while staged. The broker does not tell which modules have power,
        so exactly these are switched off again.

    Examples
    --------
    ::

        control = BrokerControl(sfdaq, "JF01T03V01", {"gain_mode": "fixed_gain1"})
        jf = Jungfrau(endpoints, name="jf", directory="frames", detector_name="JF01T03V01", control=control)
    """

    def __init__(
        self,
        broker: Broker,
        detector_name: str,
        settings: Mapping[str, Any] | None = None,
        *,
        power_on: Sequence[int] = (),
    ):
        self._broker, self.detector_name = broker, detector_name
        self._modules = check_modules(power_on, detector_name, "power_on")
        self.settings = settings or {}
        self.in_force: dict[str, Any] = {}
        self._set_here: dict[str, Any] = {}
        self._originals: dict[str, Any] = {}  # what is to be set back
        self._powered = False
        address = f"{shown_url(broker.client.url)} {detector_name}"
        self.debts = Debts(detector_name, address, broker.runner.directory)

    @property
    def settings(self) -> dict[str, Any]:
        """What the detector is to be set to at stage."""
        return dict(self._settings)

    @settings.setter
    def settings(self, settings: Mapping[str, Any]) -> None:
        self._settings = check_hardware_settings(self.detector_name, settings) if settings else {}

    def prepare(self) -> None:
        """Switch modules on, make sure that all run, and set what differs.

        Raises
        ------
        DetectorStateError
            Modules do not run, or a setting could not be set back later; nothing was set.
        StorageError
            It cannot be read what is owed; nothing was set.
        RequestError, ServiceUnreachable
            The broker's dialect does not know a setting, or the broker is away; nothing was sent.
        BrokerRefused, UnknownOutcome
            The change failed half-way; `restore` sets back what it did, and starts the trigger.
        """
        self.debts.owed(surely=True)  # before `restore` sets anything
        self.restore()
        self._pay(surely=True)
        client = self._broker.client
        if self._modules:
            self._powered = True
            self.debts.hold({POWER: ([], list(self._modules))})
            client.power_on_modules(self.detector_name, self._modules)
        if client.dialect == "current":  # older brokers do not tell
            self._check_running(client.get_detector_status(self.detector_name))
        found = client.get_detector_settings(self.detector_name)
        wanted = {name: value for name, value in self._settings.items() if not _same(found.get(name), value)}
        before = {name: self._restorable(name, found.get(name)) for name in wanted}
        if wanted:
            self._set_here, self._originals = wanted, before
            self.debts.hold({name: (before[name], value) for name, value in wanted.items()})
            try:
                self._set(wanted)
            except (RequestError, ServiceUnreachable):  # nothing was sent
                self._originals = {}
                raise
            except BrokerRefused as exc:
                if exc.nothing_done:
                    self._originals = {}
                raise
        self.in_force = found | wanted

    def restore(self) -> None:
        """Set back what was changed, switch off what was switched on. Safe twice, and without `prepare`.

        What cannot be set back is owed; what was owed before is set back if nothing else is.
        """
        self.in_force = {}
        found, self._originals = self._originals, {}
        powered, self._powered = self._powered, False
        if not found and not powered:
            self.debts.release()
            return self._pay()
        if found:
            try:
                self._set(found)
            except SfdaqError as exc:
                for name, value in found.items():
                    self.debts.owe(name, left=self._set_here[name], back=value, reason=exc)
        if powered:
            try:
                self._broker.client.power_off_modules(self.detector_name, self._modules)
            except SfdaqError as exc:
                self.debts.owe(POWER, left=list(self._modules), back=[], reason=exc)
        self.debts.release()

    def _pay(self, *, surely: bool = False) -> None:
        """Set back what an earlier staging could not; with `surely` StorageError if that is not known."""
        owed = self.debts.owed(surely=surely)
        if not owed:
            return
        now = {}
        if set(owed) - {POWER}:
            now = self._broker.client.get_detector_settings(self.detector_name)

        def read(what: str) -> Any:
            return owed[POWER].left if what == POWER else now.get(what)  # the broker does not tell power

        def write(values: dict[str, Any]) -> None:
            settings = {what: value for what, value in values.items() if what != POWER}
            if settings:
                self._set(settings)
            if POWER in values:
                self._broker.client.power_off_modules(self.detector_name, owed[POWER].left)

        self.debts.pay(read, write, same=_same, owed=owed)

    def _check_running(self, states: Mapping[str, list[int]]) -> None:
        if set(states) != {"running"}:
            found = ", ".join(f"{state}: modules {modules}" for state, modules in states.items())
            raise DetectorStateError(f"{self.detector_name}: {found}; expected all running (plan power_on)")

    def _set(self, parameters: dict[str, Any]) -> None:
        """Set; a failure says what the trigger shows, if the broker device was told its PV."""
        self._broker.hardware.set_detector_settings(self.detector_name, parameters)

    def _restorable(self, name: str, value: Any) -> Any:
        try:
            documented = self._broker.client.dialect == "documented"
            return check_hardware_settings(self.detector_name, {name: value}, documented=documented)[name]
        except RequestError as exc:
            raise DetectorStateError(
                f"{self.detector_name}: {name} reads {value!r}, which cannot be set back at unstage; "
                "set it by hand first (plan set_detector_settings)"
            ) from exc


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=1e-6)
    return found == wanted

"""Devices from their blocks in ``sfdaq.yaml``. Making one contacts nothing."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ophyd
from ophyd import Device, EpicsMotor, EpicsSignal, EpicsSignalRO
from ophyd.signal import EpicsSignalBase

from ..calibration import JungfrauCalibration
from ..devices import Eiger, Jungfrau, PulseId, SfDaqBroker, StdDaqWriter
from ..devices.debts import keep_in
from ..devices.jungfrau import BrokerControl
from ..errors import ConfigError, shown_url
from ..limits import asked_again
from . import config as blocks
from .config import DeviceConfig, SfdaqConfig

PV_TIMEOUT = 15.0
"""s for a PV to connect, and to answer."""


@dataclass(frozen=True)
class Entry:
    """One device of the file."""

    name: str
    cls: str
    address: str
    device: Any
    problem: str = ""
    """Why there is no device, or what it will lack when it is used; empty if all is well."""


class ConfiguredJungfrau(Jungfrau):
    """A Jungfrau that reads its constants when first staged; with a `photon_energy` (keV) photons count."""

    def __init__(
        self,
        *args: Any,
        load: Callable[[], JungfrauCalibration] | None,
        photon_energy: float | None,
        **kwargs: Any,
    ):
        self._load, self._energy = load, photon_energy
        super().__init__(*args, **kwargs)

    def stage(self) -> list[object]:
        """Read the constants if that was not done; if that fails, nothing is recorded raw."""
        if self._load is not None:
            self.use_calibration(self._load(), self._energy)
            self._load = None
        return super().stage()

    def use_calibration(
        self, calibration: JungfrauCalibration | None, photon_energy: float | None = None
    ) -> None:
        """Change constants and options; those of the file are then not read any more."""
        super().use_calibration(calibration, photon_energy)
        if calibration is not None:
            self._load = None


def make_devices(config: SfdaqConfig) -> list[Entry]:
    """Make every device of `config`, `_FIRST` first; one that cannot be made is listed with the reason."""
    leave_quietly()
    be_patient()
    keep_in(debts_of(config))
    made: dict[str, Entry] = {}
    order = sorted(config.devices, key=lambda name: _FIRST.get(config.devices[name].cls, len(_FIRST)))
    for name in order:
        block = config.devices[name]
        try:
            device, problem = _make(name, block, config, made)
        except Exception as exc:  # whatever it is, the other devices are wanted
            device, problem = None, f"{type(exc).__name__}: {exc}"
        made[name] = Entry(name, block.cls, address_of(block), device, problem)
    return [made[name] for name in config.devices]


def debts_of(config: SfdaqConfig) -> Path:
    """Return the folder where devices note what they could not put back."""
    return config.directory / "debts"


def leave_quietly() -> None:
    """Have Channel Access end before the interpreter does.

    caproto's threads go on while the interpreter shuts down, and complain about PVs that just then connect.
    ophyd's would be waited for, each time for as long as a PV may take to connect, and none does any more.
    """
    if ophyd.cl.name == "caproto":
        from caproto.threading.pyepics_compat import PV

        def leave() -> None:
            PV.default_context().disconnect(wait=False)
            if (dispatcher := ophyd.cl.get_dispatcher()) is not None:
                dispatcher.stop = dispatcher.stop_event.set  # its threads are daemons

        # the one hook that runs before thread pools refuse work; atexit comes after
        threading._register_atexit(leave)  # type: ignore[attr-defined] # noqa: SLF001 - not in typeshed


def be_patient() -> None:
    """Have PVs wait longer than ophyd's 1 s to connect and 2 s to read: this machine may be busy.

    Whoever makes them: what no answer came to while this process was suspended or starved is asked again.
    """
    with contextlib.suppress(RuntimeError):  # somebody's PV is there already, and has what they chose
        EpicsSignalBase.set_defaults(timeout=PV_TIMEOUT, connection_timeout=PV_TIMEOUT)
    _count_what_we_could_see()


@functools.cache
def _count_what_we_could_see() -> None:
    """Have ophyd ask again, in this process, what timed out only by the clock on the wall."""
    reading = {"timeout": "timeout", "connection_timeout": "connection_timeout"}
    connecting = {"timeout": "connection_timeout"}
    for cls, name, limits in (
        (EpicsSignalBase, "get", reading),
        (EpicsSignal, "get_setpoint", reading),
        (EpicsSignalBase, "wait_for_connection", connecting),
        (EpicsSignal, "wait_for_connection", connecting),
        (Device, "wait_for_connection", connecting),
    ):
        setattr(cls, name, _asking_again(getattr(cls, name), limits))


def _asking_again(method: Callable[..., Any], limits: dict[str, str]) -> Callable[..., Any]:
    """Return a method whose TimeoutError counts what this process could see.

    Parameters
    ----------
    method : callable
    limits : dict
        Its arguments that are limits in s, and for each the attribute that is its default.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        seconds = 0.0
        for argument, default in limits.items():
            limit = given.get(argument, ...)
            if limit is not None and not isinstance(limit, int | float):
                limit = getattr(self, default)  # which ophyd's own sentinel stands for
            seconds += math.inf if limit is None else limit
        return asked_again(functools.partial(method, self, *args, **kwargs), seconds)

    return ask


def address_of(block: DeviceConfig) -> str:
    """Return where the device is, for people."""
    if isinstance(block, blocks.JungfrauConfig):
        more = len(block.endpoints) - 1
        return block.endpoints[0] + (f" and {more} more" if more else "")
    if isinstance(block, blocks.MotorConfig | blocks.SignalConfig | blocks.PulseIdConfig):
        return block.pv
    return shown_url(block.url)


def constant_files(block: DeviceConfig, directory: Path) -> list[Path]:
    """Return every file a device needs before it can be used; relative ones lie in `directory`."""
    if not isinstance(block, blocks.JungfrauConfig) or block.constants is None:
        return []
    constants = block.constants
    given = [constants.gain_file, constants.pedestal_file, constants.pixel_mask_file]
    return [
        directory / path for each in given if each for path in (each if isinstance(each, list) else [each])
    ]


def _make(name: str, block: DeviceConfig, config: SfdaqConfig, made: dict[str, Entry]):
    cls, label = _CLASSES[block.cls]
    arguments = _arguments(block, config, made)
    address = next(arguments.pop(key) for key in ("pv", "url", "endpoints") if key in arguments)
    device = cls(address, name=name, labels={*block.labels, label}, **arguments)
    for signal, value in block.set.items():
        part = getattr(device, signal, None)
        if part is None or not hasattr(part, "put") or hasattr(part, "pvname") or hasattr(part, "setpoint"):
            raise ConfigError(
                f"set: {signal}: expected a signal of {type(device).__name__} that is kept here"
            )
        if type(part).__name__ == "SimplonSignal":
            raise ConfigError(f"set: {signal}: lives in the detector; set it in a plan")
        part.put(value)
    missing = [str(path) for path in constant_files(block, config.directory) if not path.exists()]
    return device, f"files missing: {', '.join(missing)}" if missing and config.sim is None else ""


_FIRST = {"PulseId": 0, "SfDaqBroker": 1}
"""Classes that others refer to, in the order in which they are made."""

_CLASSES = {
    "Motor": (EpicsMotor, "motors"),
    "Signal": (EpicsSignal, "signals"),
    "ReadOnly": (EpicsSignalRO, "signals"),
    "PulseId": (PulseId, "signals"),
    "Eiger": (Eiger, "detectors"),
    "Jungfrau": (ConfiguredJungfrau, "detectors"),
    "StdDaqWriter": (StdDaqWriter, "detectors"),
    "SfDaqBroker": (SfDaqBroker, "detectors"),
}
"""What is made of a block, and the label that all of them have."""


def _arguments(block: DeviceConfig, config: SfdaqConfig, made: dict[str, Entry]) -> dict[str, Any]:
    """Return what the constructor takes: keys of the block, with folders and devices in place of names."""
    given = {key: getattr(block, key) for key in type(block).model_fields.keys() - {"cls", "labels", "set"}}
    if "directory" in given:
        given["directory"] = config.directory / given["directory"]
    if given.get("files") is not None:
        given["files"] = config.directory / given["files"]
    if "pulse_id" in given:
        given["pulse_id"] = _device_named(given["pulse_id"], made)
    if isinstance(block, blocks.JungfrauConfig):
        del given["constants"]
        given["endpoints"] = block.endpoints if block.stream == "modules" else block.endpoints[0]
        given["load"] = calibration_loader(block, config.directory)
        given["control"] = _control(block, made)
    if isinstance(block, blocks.SfDaqBrokerConfig):
        given["register"] = given.pop("register_files")
        given["pgroup"] = block.pgroup or config.pgroup
        given["beamline"] = config.beamline
        given["detectors"] = {name: parameters or {} for name, parameters in block.detectors.items()}
        given["sf_root"] = config.directory / block.sf_root
    return given


def _control(block: blocks.JungfrauConfig, made: dict[str, Entry]) -> BrokerControl | None:
    if block.control is None:
        return None
    broker = _device_named(block.control.broker, made, SfDaqBroker, "control.broker")
    return BrokerControl(broker, block.detector_name, block.control.settings, power_on=block.control.power_on)


def calibration_loader(
    block: blocks.JungfrauConfig, directory: Path
) -> Callable[[], JungfrauCalibration] | None:
    """Return what reads the calibration that a block of the file names; None if it names none."""
    constants = block.constants
    if constants is None:
        return None

    def load() -> JungfrauCalibration:
        from ..files.constants import load_calibration

        options = dict(constants.options)
        if block.disabled_modules:
            options.setdefault("disabled_modules", tuple(block.disabled_modules))
        gain, pedestal = (
            [directory / path for path in each] if isinstance(each, list) else directory / each
            for each in (constants.gain_file, constants.pedestal_file)
        )
        mask = constants.pixel_mask_file and directory / constants.pixel_mask_file
        return load_calibration(block.detector_name, gain, pedestal, mask, **options)

    return load


def _device_named(name: str, made: dict[str, Entry], cls: type = PulseId, key: str = "pulse_id"):
    if not name:
        return None
    entry = made.get(name)
    if entry is None or not isinstance(entry.device, cls):
        raise ConfigError(
            f"{key}: {name!r}: expected the name of a {cls.__name__} of `devices` that could be made"
        )
    return entry.device

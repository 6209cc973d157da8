"""What is asked for with every acquisition: config signals, and the request made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO
from ophyd.device import Staged

from ...errors import RequestError
from ...wire.broker import BEAMLINES
from ...wire.broker_request import RetrieveRequest
from ...wire.pulse_id import PulseRange, check_rate_multiplicator
from .._pulse_window import Told
from .._status import Setting
from ..pulse_id import PulseId


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


INTEGERS = (
    "run_number",
    "acquisition_number",
    "unique_acquisition_number",
    "start_pulse_id",
    "stop_pulse_id",
)


def acquisition_keys(name: str, source: str, n_files: int) -> dict[str, dict]:
    """Describe an acquisition: five integers, and the paths of its files."""
    integer = {"source": source, "dtype": "integer", "dtype_numpy": "<i8", "shape": []}
    files = {"source": source, "dtype": "array", "dtype_numpy": "<U256", "shape": [n_files]}
    return {**{f"{name}_{key}": dict(integer) for key in INTEGERS}, f"{name}_files": files}


def pulse_id_of(given: str | PulseId | None, beamline: str, name: str) -> PulseId | None:
    """Return the pulse-id PV that was given, or that of the beamline; None without either."""
    if given is None and beamline:
        given = BEAMLINES[beamline].pulse_id_pv
    return PulseId(given, name=name) if isinstance(given, str) else given


def signal_of(pv: str | None, name: str) -> EpicsSignalRO | None:
    """Return a signal for a PV; None without one."""
    return None if pv is None else EpicsSignalRO(pv, name=name)


MAX_ITEMS = 1000
"""Of a list in ``scan.json``: a request has at most 100 kB."""


@dataclass(frozen=True)
class Point:
    """One point of a scan.

    Parameters
    ----------
    number : int
        From 1, in the run.
    values : mapping of str to (device, value)
        What was moved since the run began, by name, and where it was sent.
    readings : mapping of str to reading
        What these devices read just before; empty in a dry run.
    scan_name : str
    run : str
        Tells points of one run from those of others.
    n_points : int or None
        Of the whole scan; None if the plan does not say.
    """

    number: int
    values: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    readings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scan_name: str = "scan"
    run: str = ""
    n_points: int | None = None

    @property
    def token(self) -> str:
        """Tells this point from all others; the same when a pause makes it be taken again."""
        return f"{self.run}/{self.number}"


class NextPoint(Told):
    """Takes the `Point` that the next trigger is for."""

    current: Point | None = None


@dataclass(frozen=True)
class Axis:
    """One number, or text, that a run moves.

    Parameters
    ----------
    name : str
        Of the device; of a pseudo positioner moved as a whole, that of one of its axes.
    device : device
    index : int or None
        Where in what the device is set to; None if that is one value.
    units : str
        Empty if it has none.
    """

    name: str
    device: Any
    index: int | None = None
    units: str = ""

    def value(self, point: Point) -> Any:
        """Return where it was sent, fit for JSON."""
        value = point.values[self.device.name][1]
        return plain(value if self.index is None else value[self.index])

    def readback(self, point: Point) -> Any:
        """Return where it was, fit for JSON; None if that is not known."""
        reading = point.readings.get(self.device.name, {})
        fields = [field for field in _fields(self.device) if field in reading] or list(reading)
        values = [reading[field]["value"] for field in fields]
        if self.index is not None and len(values) == 1:
            values = list(np.atleast_1d(values[0]))
        index = self.index or 0
        return plain(values[index]) if index < len(values) else None

    @property
    def address(self) -> str:
        """Its PV; its name if it has none."""
        if self.index is not None:
            return self.name
        return getattr(self.device, "prefix", "") or getattr(self.device, "pvname", "") or self.name


def axes_of(point: Point) -> tuple[Axis, ...]:
    """Return what is moved: numbers; texts only if there are none, since readers make arrays of them."""
    axes = [axis for device, value in point.values.values() for axis in _axes(device, value)]
    numbers = [axis for axis in axes if not isinstance(axis.value(point), str)]
    return tuple(numbers or axes)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: what is no finite number is None, what is no number or list is text.

    Examples
    --------
    >>> plain(np.array([1.5, np.nan])), plain(np.float32("inf")), plain(b"moving"), plain(np.uint8(3))
    ([1.5, None], None, 'moving', 3)
    """
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.size <= MAX_ITEMS else f"{value.dtype} {value.shape}"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return "".join(value)  # an exact str, whatever it was
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [plain(one) for one in value] if len(value) <= MAX_ITEMS else f"{len(value)} items"
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def scan_info(point: Point, axes: Sequence[Axis]) -> dict[str, Any] | None:
    """Return what goes into ``meta/scan.json``.

    Parameters
    ----------
    point : Point
    axes : sequence of Axis
        As at the first acquisition of the run: the lists have this length in every step.

    Returns
    -------
    dict or None
        None if nothing is moved: the server then writes its dummy values.
    """
    if not axes:
        return None
    readbacks = [axis.readback(point) for axis in axes]
    total = {} if point.n_points is None else {"expected_total_number_of_steps": point.n_points}
    return {
        "scan_name": point.scan_name,
        "name": [axis.name for axis in axes],
        "Id": [axis.address for axis in axes],
        "units": [axis.units for axis in axes],
        "offset": [0.0] * len(axes),
        "conversion_factor": [1.0] * len(axes),
        **total,
        "scan_values": [axis.value(point) for axis in axes],
        "scan_readbacks": readbacks,
        "scan_readbacks_raw": readbacks,
        "scan_step_info": {"step_number": point.number},
    }


def _axes(device: Any, value: Any) -> Iterator[Axis]:
    """Yield the axes of one device; none if it is set to something that is no number, text, or numbers."""
    if isinstance(value, int | float | str | np.generic):
        yield Axis(device.name, device, None, _units(device))
    elif isinstance(value, list | tuple | np.ndarray) and all(
        isinstance(one, int | float | np.generic) for one in value
    ):
        names = _fields(device)
        names = names if len(names) == len(value) else [f"{device.name}[{k}]" for k in range(len(value))]
        for index, name in enumerate(names):
            yield Axis(name, device, index, _units(device))


def _fields(device: Any) -> list[str]:
    return (getattr(device, "hints", None) or {}).get("fields") or [device.name]


def _units(device: Any) -> str:
    for name in ("egu", "units"):
        try:
            units = getattr(device, name, None)
        except Exception:  # a record beside the motor's, in whatever state; the step does not need it
            continue
        if isinstance(units, str):
            return units
    return ""

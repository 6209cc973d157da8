"""Signals that mirror SIMPLON parameters: read from the server, written to it, read back."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from ophyd import Component as Cpt
from ophyd import Device, Signal
from ophyd.utils import ReadOnlyError

from ...clients.simplon import SLOW_PUT_TIMEOUT, SimplonClient
from ...errors import RequestError, ServiceRefused, SfdaqError, WireError
from ...wire.simplon import DetectorState, typed
from .._status import ActionStatus, naming, refuse_while_staged
from ._control import measure
from ._series import Readout

logger = logging.getLogger(__name__)

_TYPES = {"number": float, "integer": int, "string": str, "boolean": bool}
_UNKNOWN = {"number": float("nan"), "integer": float("nan"), "boolean": float("nan"), "string": ""}


class ParameterOwner(Protocol):
    """The device that has a server's parameters as signals, and writes them one after the other."""

    name: str
    client: SimplonClient

    @property
    def is_staged(self) -> bool:
        """Whether settings of a run are fixed."""

    def prepare_write(self, signal: SimplonSignal) -> None:
        """Make the server fit to take a new value."""

    def write(self, signal: SimplonSignal, value: Any) -> list[str]:
        """Write one parameter; return the names of those the server says have changed."""

    def write_aside(self, status: ActionStatus, write: Callable[[], object]) -> ActionStatus:
        """Have `write` called in the thread that writes settings; return `status`, which ends with it."""


class SimplonSignal(Signal):
    """One parameter of the detector control unit.

    `get` asks the server. `put` checks the value against the server's limits, writes it, and reads back every
    parameter the server says has changed. A parameter this detector does not have, or answers for oddly,
    reads as NaN or ``""``; a server that cannot be read at all is an error.

    Parameters
    ----------
    path : str
        ``"<module>/<task>/<name>"``, e.g. ``"detector/config/count_time"``.
    dtype : str
        ``number``, ``integer``, ``string`` or ``boolean``.
    units : str
        As the manual says.
    writable : bool
        False refuses `put` with `hint`.
    hint : str
        What to set instead.
    fixed : bool
        True refuses `put` while the device is staged.
    measured : bool
        True has the detector measure it before it is read, where that is to be asked for: API 1.6, and only
        while the detector is idle. Else the value is of before the series.
    """

    parent: ParameterOwner
    _readback: Any

    def __init__(
        self,
        path: str,
        *,
        dtype: str = "number",
        units: str = "",
        writable: bool = False,
        hint: str = "",
        fixed: bool = False,
        measured: bool = False,
        **kwargs,
    ):
        self.module, self.task, self.parameter = path.split("/", 2)
        self.path, self._dtype, self._units = path, dtype, units
        self._writable, self._hint, self._fixed, self._measured = writable, hint, fixed, measured
        super().__init__(**kwargs)
        self._metadata["write_access"] = writable

    def get(self, **kwargs):
        """Read the parameter from the server; unknown if this one cannot be read, and others can."""
        try:
            value = self._fetch()
        except SfdaqError as exc:
            naming(exc, self.name)
            raise
        known = typed(value, self._dtype)
        return self._keep(_UNKNOWN[self._dtype] if known is None else known)

    def _fetch(self):
        client, old = self.parent.client, None
        try:
            if self._measured:
                old = measure(client)
            value = client.get(self.module, self.task, self.parameter).value
            if old is not None:
                logger.warning("%s: the value may be an old one: %s", self.name, old)
            return value
        except (ServiceRefused, WireError) as exc:
            if client.probe() == DetectorState.NA and self.module == "detector":
                raise
            if not isinstance(exc, ServiceRefused) or exc.code != 404:
                logger.warning("%s: not read: %s", self.name, exc)
            return None

    def read(self) -> OrderedDict:
        """Read the parameter from the server."""
        value = self.get()
        return OrderedDict({self.name: {"value": value, "timestamp": self.timestamp}})

    def describe(self) -> OrderedDict:
        """Describe without asking the server."""
        key = {"source": f"SIMPLON:{self.path}", "dtype": self._dtype, "shape": []}
        if self._units:
            key["units"] = self._units
        return OrderedDict({self.name: key})

    def check_value(self, value, **kwargs) -> None:
        """Raise RequestError unless the server would take `value`; nothing is written."""
        self._converted(value)

    def put(self, value, *, timestamp=None, force: bool = False, **kwargs) -> None:
        """Write the parameter, and read back what the server says has changed.

        Raises
        ------
        RequestError
            `value` has the wrong type or is outside the server's limits; nothing was written.
        ReadOnlyError
            This parameter is only read.
        """
        if not self._writable:
            hint = f"; {self._hint}" if self._hint else ""
            raise ReadOnlyError(f"{self.name} ({self.path}) is only read here{hint}")
        if self._fixed:
            refuse_while_staged(self, value, self.get())
        self.parent.write(self, self._converted(value))

    def set(self, value, *, timeout: float | None = None, settle_time: float | None = None) -> ActionStatus:
        """Write the parameter, after those set before, in the device's thread for that.

        Returns
        -------
        ActionStatus
            Done when it was read back. An energy change takes about 10 s on a 16M.
        """
        status = ActionStatus(self, "write", timeout or 2 * SLOW_PUT_TIMEOUT, unit="steps")

        def write() -> None:
            self.put(value)
            time.sleep(settle_time or 0)

        return self.parent.write_aside(status, write)

    def _converted(self, value):
        try:
            number = _TYPES[self._dtype](value) if self._dtype in ("number", "integer") else value
        except (TypeError, ValueError, OverflowError):
            raise RequestError(self.name, value, f"a value of type {self._dtype}") from None
        self.parent.prepare_write(self)
        if self._dtype == "integer" and number != value:
            raise RequestError(self.name, value, "a whole number")
        self.parent.client.get(self.module, self.task, self.parameter).check(self.name, number)
        return number

    def _keep(self, value):
        old, self._readback, now = self._readback, value, time.time()
        self._metadata["timestamp"] = now
        if old != value and not (old != old and value != value):
            self._run_subs(sub_type=self.SUB_VALUE, old_value=old, value=value, timestamp=now)
        return value


def _mirror(path: str, dtype: str = "number", units: str = "", **kwargs) -> Cpt:
    return Cpt(SimplonSignal, path, dtype=dtype, units=units, kind="config", **kwargs)


def _config(name: str, dtype: str = "number", units: str = "", **kwargs) -> Cpt:
    return _mirror(f"detector/config/{name}", dtype, units, **kwargs)


class EigerSignals(Device):
    """Parameters of an Eiger as signals; the device that has them is their `ParameterOwner`."""

    exposure_time = _config("count_time", units="s", writable=True)
    frame_time = _config("frame_time", units="s", writable=True)
    photon_energy = _config("photon_energy", units="eV", writable=True)
    threshold_energy = _config("threshold_energy", units="eV", writable=True)
    wavelength = _config("wavelength", units="angstrom", writable=True)
    nimages = _config("nimages", "integer", hint="set frames_per_trigger")
    ntrigger = _config("ntrigger", "integer", hint="set n_triggers")
    trigger_mode = _config("trigger_mode", "string", writable=True, fixed=True)
    trigger_start_delay = _config("trigger_start_delay", units="s", writable=True)
    bit_depth = _config("bit_depth_image", "integer")
    roi_mode = _config("roi_mode", "string", writable=True, fixed=True)
    beam_center_x = _config("beam_center_x", units="pixel", writable=True)
    beam_center_y = _config("beam_center_y", units="pixel", writable=True)
    detector_distance = _config("detector_distance", units="m", writable=True)
    n_pixels_x = _config("x_pixels_in_detector", "integer")
    n_pixels_y = _config("y_pixels_in_detector", "integer")
    pixel_size_x = _config("x_pixel_size", units="m")
    pixel_size_y = _config("y_pixel_size", units="m")
    sensor_material = _config("sensor_material", "string")
    sensor_thickness = _config("sensor_thickness", units="m")
    count_cutoff = _config("countrate_correction_count_cutoff", "integer")
    pixel_mask_applied = _config("pixel_mask_applied", "boolean", writable=True)
    flatfield_correction_applied = _config("flatfield_correction_applied", "boolean", writable=True)
    countrate_correction_applied = _config("countrate_correction_applied", "boolean", writable=True)
    auto_summation = _config("auto_summation", "boolean", writable=True)
    description = _config("description", "string")
    serial_number = _config("detector_number", "string")
    firmware = _config("eiger_fw_version", "string")

    state = _mirror("detector/status/state", "string")
    temperature = _mirror("detector/status/temperature", units="degree C", measured=True)
    humidity = _mirror("detector/status/humidity", units="%", measured=True)
    high_voltage = _mirror("detector/status/high_voltage/state", "string")
    monitor_mode = _mirror("monitor/config/mode", "string")
    monitor_state = _mirror("monitor/status/state", "string")
    monitor_dropped = _mirror("monitor/status/dropped", "integer")
    stream_mode = _mirror("stream/config/mode", "string")
    stream_state = _mirror("stream/status/state", "string")
    stream_dropped = _mirror("stream/status/dropped", "integer")
    filewriter_mode = _mirror("filewriter/config/mode", "string")
    filewriter_state = _mirror("filewriter/status/state", "string")
    filewriter_free = _mirror("filewriter/status/buffer_free")
    file_format = _mirror("filewriter/config/format", "string", writable=True, fixed=True)
    images_per_file = _mirror("filewriter/config/nimages_per_file", "integer", writable=True, fixed=True)
    buffer_size = _mirror("monitor/config/buffer_size", "integer", writable=True)

    def show_signals_of(self, readout: str) -> None:
        """Have the signals of one interface recorded, and those of the others left out."""
        for signal in (getattr(self, name) for name in self.component_names):
            if isinstance(signal, SimplonSignal) and signal.module in list(Readout):
                signal.kind = "config" if signal.module == readout else "omitted"

"""What an acquisition is called in events, and the PVs beside it."""

from __future__ import annotations

from ophyd import EpicsSignalRO

from ...wire.broker import BEAMLINES
from ..pulse_id import PulseId

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

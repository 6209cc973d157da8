"""What a scan says of the point it is about to take; becomes ``scan_info`` of the next request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ophyd import Device

from .._status import GRACE, ActionStatus


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
    """

    number: int
    values: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    readings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scan_name: str = "scan"
    run: str = ""

    @property
    def token(self) -> str:
        """Tells this point from all others; the same when a pause makes it be taken again."""
        return f"{self.run}/{self.number}"


class NextPoint(Device):
    """Takes the `Point` that the next trigger is for."""

    current: Point | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._done = ActionStatus(self.parent, "next point", GRACE)
        self._done.succeed()

    def set(self, point: Point | None) -> ActionStatus:
        """Remember the point; done at once."""
        self.current = point
        return self._done


def scan_info(point: Point, names: Sequence[str]) -> dict[str, Any] | None:
    """Return what goes into ``meta/scan.json``.

    Parameters
    ----------
    point : Point
    names : sequence of str
        Names of what the run moves, as at its first acquisition: the lists have this length in every step.

    Returns
    -------
    dict or None
        None if nothing is moved: the server then writes its dummy values.
    """
    if not names:
        return None
    moved = [point.values[name] for name in names]
    readbacks = [_readback(device, point.readings.get(device.name, {})) for device, _ in moved]
    return {
        "scan_name": point.scan_name,
        "name": list(names),
        "Id": [_address(device) for device, _ in moved],
        "units": [_units(device) for device, _ in moved],
        "offset": [0.0] * len(names),
        "conversion_factor": [1.0] * len(names),
        "scan_values": [value for _, value in moved],
        "scan_readbacks": readbacks,
        "scan_readbacks_raw": readbacks,
        "scan_step_info": {"step_number": point.number},
    }


def _readback(device: Any, reading: Mapping[str, Any]) -> Any:
    hinted = (getattr(device, "hints", None) or {}).get("fields") or [device.name]
    key = next((field for field in hinted if field in reading), next(iter(reading), None))
    return None if key is None else reading[key]["value"]


def _address(device: Any) -> str:
    return getattr(device, "prefix", "") or getattr(device, "pvname", "") or device.name


def _units(device: Any) -> str:
    for name in ("egu", "units"):
        units = getattr(device, name, None)
        if isinstance(units, str):
            return units
    return ""

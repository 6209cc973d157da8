"""Points of a scan, and what ``meta/scan.json`` says of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_ITEMS = 1000
"""Of a list in ``scan.json``: a request has at most 100 kB."""


@dataclass(frozen=True)
class Point:
    """One point of a scan.

    Attributes
    ----------
    number : int
        From 1, in the run.
    values : mapping of str to (device, value)
        What was moved since the run began, by name, and where it was sent.
    readings : mapping of str to reading
        What these devices read just before; empty in a dry run.
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


@dataclass(frozen=True)
class Axis:
    """One number, or text, that a run moves.

    The `name` is that of the device, or that of one of its axes where a pseudo positioner is moved as a
    whole; `index` says then where in what the device is set to. Empty `units` are none.
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
    """Return what goes into ``meta/scan.json``; None if nothing is moved: the server writes dummy values.

    The `axes` are those of the run's first acquisition: the lists have this length in every step.
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

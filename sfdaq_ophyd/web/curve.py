"""The points of a scan as the page draws them, taken from its documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LATE_AFTER = 10.0
"""s after which the next point is late, at least; else twice the time between the last two."""

MOST_SIGNALS = 8
MOST_POINTS = 20_000
"""Of a longer run, the first ones are kept; `is_cut` tells."""


class Curve:
    """Take the documents of a run as they come.

    Without a motor, or with several (a grid), points are numbered; a `count` is shown against time, in s
    since its start. A signal that is missing in a point, or not a number, is None there.

    Parameters
    ----------
    start : Mapping
        The start document.

    Attributes
    ----------
    uid : str
    x_name : str
        The motor, "time" or "point".
    x : list of float
    ys : dict of str to list of float or None
        By signal, as long as `x`.
    newest : float or None
        When the newest point was taken, s since the epoch: its event's time.
    late_after : float
        s after `newest` by which the next one is late.
    """

    def __init__(self, start: Mapping[str, Any]):
        self.uid = str(start.get("uid", ""))
        self.scan_id, self.plan_name = start.get("scan_id"), str(start.get("plan_name", ""))
        self.is_over = self.is_cut = False
        self.x: list[float] = []
        self.ys: dict[str, list[float | None]] = {}
        self._start_time = start.get("time") or 0.0
        self.newest: float | None = None
        self.late_after = LATE_AFTER
        self._descriptors: dict[str, list[str]] = {}
        dimensions = [d for d in _list(start.get("hints"), "dimensions") if len(d) == 2 and d[1] == "primary"]
        self.x_name = str(dimensions[0][0][0]) if len(dimensions) == 1 and dimensions[0][0] else "point"

    def take(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document of the run, after its start."""
        if name == "descriptor" and doc.get("name") == "primary":
            self._describe(doc)
        elif name == "event" and doc["descriptor"] in self._descriptors:
            self._add(doc["data"], doc["time"], self._descriptors[doc["descriptor"]])
        elif name == "event_page" and doc["descriptor"] in self._descriptors:
            for i, time in enumerate(doc["time"]):
                row = {key: values[i] for key, values in doc["data"].items()}
                self._add(row, time, self._descriptors[doc["descriptor"]])
        elif name == "stop":
            self.is_over = True

    def message(self, first: int) -> dict[str, Any]:
        """Return the points from number `first` on; ready for JSON."""
        n = len(self.x)
        return {
            "uid": self.uid,
            "time": self._start_time,
            "scan_id": self.scan_id,
            "plan_name": self.plan_name,
            "is_cut": self.is_cut,
            "newest": self.newest,
            "x_name": self.x_name,
            "first": first,
            "x": self.x[first:n],
            "ys": {name: values[first:n] for name, values in self.ys.items()},
        }

    def _describe(self, doc: Mapping[str, Any]) -> None:
        keys, hints = doc.get("data_keys", {}), doc.get("hints") or {}
        hinted = [field for hint in hints.values() for field in _list(hint, "fields")]
        numbers = [
            field
            for field in dict.fromkeys(hinted)
            if field != self.x_name
            and keys.get(field, {}).get("dtype") in ("number", "integer")
            and "external" not in keys[field]
        ]
        self._descriptors[doc["uid"]] = numbers
        for field in numbers[: MOST_SIGNALS - len(self.ys)]:
            self.ys.setdefault(field, [None] * len(self.x))

    def _add(self, data: Mapping[str, Any], time: float, fields: list[str]) -> None:
        if self.newest is not None:
            self.late_after = max(LATE_AFTER, 2 * (time - self.newest))
        self.newest = time
        if len(self.x) >= MOST_POINTS:
            self.is_cut = True
            return
        if self.x_name == "time":
            x: float | None = time - self._start_time
        elif self.x_name == "point":
            x = len(self.x) + 1
        else:
            x = _number(data.get(self.x_name))
        if x is None:
            return  # a point without its place is nowhere
        for field, values in self.ys.items():
            values.append(_number(data.get(field)) if field in fields else None)
        self.x.append(x)  # last: what is counted has all its values


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _list(holder: object, key: str) -> list:
    found = holder.get(key) if isinstance(holder, Mapping) else None
    return list(found) if isinstance(found, list | tuple) else []

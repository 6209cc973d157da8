"""Misbehaviour by name, each once (or as often as told), optionally for one endpoint only."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

FAULTS: dict[str, tuple[str, ...]] = {
    "latency": ("seconds",),
    "hang": (),
    "drop_before": (),
    "drop_after": (),
    "garbage": ("body",),
    "server_error": (),
    "refuse": ("message", "exception"),
    "wrong_run_number": (),
    "message_broker_down": (),
    "close_pgroup": ("pgroup",),
    "run_info_unwritable": (),
    "stray_meta_file": (),
    "trigger_stuck": (),
    "writer_absent": (),
    "writer_fails": ("source", "message"),
    "writer_silent": ("source",),
    "missing_pulses": ("source", "pulse_ids"),
    "truncated_file": ("source",),
    "channels_offline": ("source", "channels"),
    "power_on_fails": ("message",),
    "pedestal_fails": ("message",),
    "limping": ("detector", "modules"),
    "detector_stopped": ("detector",),
}
"""Names and details of every fault.

In the services: ``latency`` (`seconds` more), ``hang`` (until the simulator stops; the request is never
carried out), ``drop_before`` and ``drop_after`` (the connection closes before, or after, the request is
carried out), ``garbage`` (HTML, or `body`, with code 200, after it is carried out), ``server_error`` (HTTP
500), ``refuse`` (error with `message` and `exception`; nothing is done), ``wrong_run_number`` (the reply is
one too high), ``message_broker_down``, ``close_pgroup`` (just before the next request),
``run_info_unwritable``, ``stray_meta_file`` (in the run's ``meta/``, so that numbers drift),
``trigger_stuck`` (event codes are lost).

In the writers; `source` is PVDATA, BSDATA, CAMERAS or a detector, default any: ``writer_absent`` (the request
vanishes), ``writer_fails`` (``.err`` with `message`), ``writer_silent`` (says it is finished, and there is no
file), ``missing_pulses`` (`pulse_ids` did not arrive), ``truncated_file`` (ends half-way),
``channels_offline`` (`channels`, or the first, of BSDATA or CAMERAS, are left out, and the log says so),
``power_on_fails``, ``pedestal_fails``.

At once: ``limping`` (`modules` of `detector` stop writing), ``detector_stopped``.
"""


AT_ONCE = ("limping", "detector_stopped", "trigger_stuck")
"""Faults that are there as soon as they are named."""


def check(what: str, details: Iterable[str]) -> None:
    """Refuse an unknown fault or detail; ValueError names those there are."""
    if what not in FAULTS:
        raise ValueError(f"{what!r} is not one of {', '.join(FAULTS)}")
    unknown = set(details) - set(FAULTS[what])
    if unknown:
        known = ", ".join(FAULTS[what]) or "no details"
        raise ValueError(f"{what} takes {known}, not {', '.join(unknown)}")


@dataclass
class Fault:
    """One armed fault."""

    what: str
    details: dict[str, Any] = field(default_factory=dict)
    endpoint: str | None = None
    times: int = 1


class Faults:
    """Armed faults, taken by whoever is about to misbehave."""

    def __init__(self):
        self._armed: list[Fault] = []
        self._lock = threading.Lock()

    def arm(self, what: str, *, endpoint: str | None = None, times: int = 1, **details: Any) -> Fault:
        """Arm one; ValueError for an unknown name or detail."""
        check(what, details)
        fault = Fault(what, details, endpoint, times)
        with self._lock:
            self._armed.append(fault)
        return fault

    def take(self, what: str, *, endpoint: str | None = None, source: str | None = None) -> Fault | None:
        """Return the first armed fault of a name that fits, and count it down; None if there is none."""
        with self._lock:
            for fault in self._armed:
                if fault.what != what or fault.endpoint not in (None, endpoint):
                    continue
                if source is not None and fault.details.get("source") not in (None, source):
                    continue
                fault.times -= 1
                if fault.times <= 0:
                    self._armed.remove(fault)
                return fault
        return None

    @property
    def armed(self) -> tuple[str, ...]:
        """Names of the faults nobody has taken yet."""
        with self._lock:
            return tuple(fault.what for fault in self._armed)

    def clear(self) -> None:
        """Disarm all."""
        with self._lock:
            self._armed.clear()

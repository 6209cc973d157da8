"""Every call of both services: where it goes, how its reply reads, and whether it may be repeated.

What may be repeated is in the wire reference sf-daq-broker, section 15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import RequestError
from . import broker_reply as reply
from .broker import Dialect, Service

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Operation(Generic[Reply]):
    """One call.

    Parameters
    ----------
    name : str
        Path without the slash.
    service : {"broker", "slow"}
    current, documented : str or None
        HTTP method in each dialect; None where the dialect lacks the call.
    read : callable
        Returns the value of a reply, which is a success, of a dialect; raises WireError.
    repeat : bool
        Whether it may be sent again after its reply was lost.
    hint : str
        What to do when the outcome is unknown.
    expected : str, optional
        Key that marks success in a reply without status (documented dialect).
    """

    name: str
    service: Service
    current: str | None
    documented: str | None
    read: Callable[[dict[str, Any], Dialect], Reply]
    repeat: bool = True
    hint: str = ""
    expected: str | None = None

    def method(self, dialect: Dialect) -> str:
        """Return the HTTP method; RequestError if the dialect lacks the call."""
        method = self.current if dialect == "current" else self.documented
        if method is None:
            raise RequestError("dialect", dialect, f"one that knows {self.name!r}")
        return method


_BURNED = (
    "A number may have been used up: take another with advance_run_number, gaps are harmless; "
    "do not look it up with get_current_run_number, that may be another client's."
)
_REQUESTED = (
    "The data may have been requested or may still be: look for this client_request_id in the run's "
    "meta/acq*.json before asking again."
)
_QUEUED = "It may run or still be queued: look for its effect before asking again."
_READ_BACK = "Read back with get_detector_settings and check the trigger PV (254 is running), then repeat."

GET_ALLOWED_DETECTORS = Operation(
    "get_allowed_detectors", "broker", "GET", "GET", reply.allowed_detectors, expected="detectors"
)
GET_RUNNING_DETECTORS = Operation(
    "get_running_detectors", "broker", "GET", "GET", reply.running_detectors, expected="detectors"
)
POWER_ON_DETECTOR = Operation("power_on_detector", "broker", "POST", "POST", reply.message, False, _QUEUED)
ADVANCE_RUN_NUMBER = Operation(
    "advance_run_number", "broker", "POST", "GET", reply.run_number, False, _BURNED
)
GET_CURRENT_RUN_NUMBER = Operation("get_current_run_number", "broker", "GET", "GET", reply.run_number)
RETRIEVE_FROM_BUFFERS = Operation(
    "retrieve_from_buffers", "broker", "POST", "POST", reply.retrieval, False, _REQUESTED
)
TAKE_PEDESTAL = Operation("take_pedestal", "broker", "POST", "POST", reply.nothing, False, _QUEUED)
GET_PVLIST = Operation("get_pvlist", "broker", "GET", "GET", reply.pv_list, expected="pv_list")
SET_PVLIST = Operation("set_pvlist", "broker", "POST", "POST", reply.stored_pv_list)
CLOSE_PGROUP_WRITING = Operation(
    "close_pgroup_writing", "broker", "POST", "POST", reply.nothing, False, "Closing again is harmless."
)
GET_DETECTOR_SETTINGS = Operation("get_detector_settings", "slow", "GET", "POST", reply.detector_settings)
SET_DETECTOR_SETTINGS = Operation(
    "set_detector_settings", "slow", "POST", "POST", reply.changed_settings, False, _READ_BACK
)
GET_DETECTOR_STATUS = Operation("get_detector_status", "slow", "GET", None, reply.detector_status)
GET_DETECTOR_TEMPERATURES = Operation("get_detector_temperatures", "slow", "GET", None, reply.temperatures)
GET_DETECTOR_PINGS = Operation("get_detector_pings", "slow", "GET", None, reply.pings)
GET_JFCTRL_MONITOR = Operation("get_jfctrl_monitor", "slow", "GET", None, reply.control_box)
GET_JFSTATS = Operation("get_jfstats", "slow", "GET", None, reply.jfstats)
POWER_ON_MODULES = Operation("power_on_modules", "slow", "POST", None, reply.nothing)
POWER_OFF_MODULES = Operation("power_off_modules", "slow", "POST", None, reply.nothing)
COPY_USER_FILES = Operation("copy_user_files", "slow", "POST", "POST", reply.copied_files)
GET_DAP_SETTINGS = Operation("get_dap_settings", "slow", "GET", "POST", reply.dap_settings)
SET_DAP_SETTINGS = Operation("set_dap_settings", "slow", "POST", "POST", reply.changed_dap_settings)
UPLOAD_CUSTOM_DAP_SCRIPT = Operation(
    "upload_custom_dap_script",
    "slow",
    "POST",
    None,
    reply.nothing,
    False,
    "Uploading the same script again is harmless.",
)

OPERATIONS: dict[str, Operation[Any]] = {
    value.name: value for value in tuple(globals().values()) if isinstance(value, Operation)
}
"""Every call of both services, by name."""

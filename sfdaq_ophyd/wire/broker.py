"""The two services of the sf-daq broker: dialects, endpoints and limits (contract sections 1-3, 10, 15).

The broker answers on port 10002, the slow broker one port above. *current* is what production runs;
*documented* is what the API document says, with the behaviour of the 2023 server where it is silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import RequestError

Dialect = Literal["current", "documented"]
Service = Literal["broker", "slow"]

DIALECTS: tuple[Dialect, ...] = ("current", "documented")

MAX_BODY = 102_400
"""Largest request body the server reads, bytes; about 7800 selected pulse ids."""

TRIGGER_RUNNING, TRIGGER_STOPPED = 254, 255
"""Event codes of a beamline's trigger PV."""

PEDESTAL_FRAMES = 3000
"""Frames of one manual pedestal, all three gain stages together."""

RUN_LOG_LEVEL = "INFO"
"""Sent with every pedestal: without it today's writer rejects the request although the reply is ok."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call.

    Parameters
    ----------
    name : str
        Path without the slash.
    service : {"broker", "slow"}
    current, documented : str or None
        HTTP method in each dialect; None where the dialect lacks the call.
    repeat : bool
        Whether it may be sent again after its reply was lost (contract section 15).
    hint : str
        What to do when the outcome is unknown.
    """

    name: str
    service: Service
    current: str | None
    documented: str | None
    repeat: bool = True
    hint: str = ""

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

ENDPOINTS: dict[str, Endpoint] = {
    endpoint.name: endpoint
    for endpoint in (
        Endpoint("get_allowed_detectors", "broker", "GET", "GET"),
        Endpoint("get_running_detectors", "broker", "GET", "GET"),
        Endpoint("power_on_detector", "broker", "POST", "POST", False, _QUEUED),
        Endpoint("advance_run_number", "broker", "POST", "GET", False, _BURNED),
        Endpoint("get_current_run_number", "broker", "GET", "GET"),
        Endpoint("retrieve_from_buffers", "broker", "POST", "POST", False, _REQUESTED),
        Endpoint("take_pedestal", "broker", "POST", "POST", False, _QUEUED),
        Endpoint("get_pvlist", "broker", "GET", "GET"),
        Endpoint("set_pvlist", "broker", "POST", "POST"),
        Endpoint("close_pgroup_writing", "broker", "POST", "POST", False, "Closing again is harmless."),
        Endpoint("get_detector_settings", "slow", "GET", "POST"),
        Endpoint("set_detector_settings", "slow", "POST", "POST", False, _READ_BACK),
        Endpoint("get_detector_status", "slow", "GET", None),
        Endpoint("get_detector_temperatures", "slow", "GET", None),
        Endpoint("get_detector_pings", "slow", "GET", None),
        Endpoint("get_jfctrl_monitor", "slow", "GET", None),
        Endpoint("get_jfstats", "slow", "GET", None),
        Endpoint("power_on_modules", "slow", "POST", None),
        Endpoint("power_off_modules", "slow", "POST", None),
        Endpoint("copy_user_files", "slow", "POST", "POST"),
        Endpoint("get_dap_settings", "slow", "GET", "POST"),
        Endpoint("set_dap_settings", "slow", "POST", "POST"),
        Endpoint(
            "upload_custom_dap_script",
            "slow",
            "POST",
            None,
            False,
            "Uploading the same script again is harmless.",
        ),
    )
}
"""Every call of both services, by name."""


def dialect_of(reply: object) -> Dialect | None:
    """Tell the dialect from a reply of get_allowed_detectors, the one safe probe; None if it fits neither.

    Examples
    --------
    >>> dialect_of({"status": "ok", "detectors": [], "descriptions": []})
    'current'
    >>> dialect_of({"detectors": [], "names": []})
    'documented'
    """
    if not isinstance(reply, dict):
        return None
    if "status" in reply and ("descriptions" in reply or "exception" in reply):
        return "current"
    if "names" in reply and "status" not in reply:
        return "documented"
    return None

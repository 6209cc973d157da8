"""Every endpoint of both services and what handles it."""

from __future__ import annotations

from .dap import get_dap_settings, set_dap_settings, upload_custom_dap_script
from .detector_lists import get_allowed_detectors, get_running_detectors
from .pedestal_request import power_on_detector, take_pedestal
from .pvlist import get_pvlist, set_pvlist
from .readback import (
    get_detector_pings,
    get_detector_status,
    get_detector_temperatures,
    get_jfctrl_monitor,
    get_jfstats,
    power_off_modules,
    power_on_modules,
)
from .retrieve import retrieve_from_buffers
from .run_numbers import advance_run_number, close_pgroup_writing, get_current_run_number
from .settings import get_detector_settings, set_detector_settings
from .site import Handler
from .user_files import copy_user_files

HANDLERS: dict[str, Handler] = {
    handler.__name__: handler
    for handler in (
        advance_run_number,
        close_pgroup_writing,
        copy_user_files,
        get_allowed_detectors,
        get_current_run_number,
        get_dap_settings,
        get_detector_pings,
        get_detector_settings,
        get_detector_status,
        get_detector_temperatures,
        get_jfctrl_monitor,
        get_jfstats,
        get_pvlist,
        get_running_detectors,
        power_off_modules,
        power_on_detector,
        power_on_modules,
        retrieve_from_buffers,
        set_dap_settings,
        set_detector_settings,
        set_pvlist,
        take_pedestal,
        upload_custom_dap_script,
    )
}
"""By name."""

PARAMETERLESS = ("get_allowed_detectors", "get_running_detectors", "get_pvlist")
"""Calls that take no request."""

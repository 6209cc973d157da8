"""Plans: generators that yield messages and touch nothing."""

from .broker import (
    call_broker,
    close_pgroup,
    copy_user_files,
    power_on,
    preflight,
    set_dap_settings,
    set_detector_settings,
    take_pedestal,
    update_pv_list,
)
from .fly import collect_while_completing, fly
from .retrieve import re_retrieve, retrieve_from_buffers, sf_record
from .run_number import (
    run_number_decorator,
    run_number_wrapper,
    sf_count,
    sf_grid_scan,
    sf_list_scan,
    sf_scan,
)
from .same_pulses import same_pulses, save_once
from .std_daq import configure_daq, std_daq_decorator, std_daq_wrapper, write_images

__all__ = [
    "call_broker",
    "close_pgroup",
    "collect_while_completing",
    "configure_daq",
    "copy_user_files",
    "fly",
    "power_on",
    "preflight",
    "re_retrieve",
    "retrieve_from_buffers",
    "run_number_decorator",
    "run_number_wrapper",
    "same_pulses",
    "save_once",
    "set_dap_settings",
    "set_detector_settings",
    "sf_count",
    "sf_grid_scan",
    "sf_list_scan",
    "sf_record",
    "sf_scan",
    "std_daq_decorator",
    "std_daq_wrapper",
    "take_pedestal",
    "update_pv_list",
    "write_images",
]

"""Plans by name."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
from bluesky.plan_stubs import mv, mvr, sleep
from bluesky.plans import (
    count,
    grid_scan,
    list_grid_scan,
    list_scan,
    log_scan,
    rel_grid_scan,
    rel_list_grid_scan,
    rel_list_scan,
    rel_log_scan,
    rel_scan,
    scan,
    spiral,
)

from sfdaq_ophyd.plans import (
    configure_daq,
    copy_user_files,
    fly,
    power_on,
    preflight,
    re_retrieve,
    retrieve_from_buffers,
    set_dap_settings,
    set_detector_settings,
    sf_count,
    sf_grid_scan,
    sf_list_scan,
    sf_scan,
    take_pedestal,
    update_pv_list,
    write_images,
)
from sfdaq_ophyd.session.queueserver import annotated

globals().update(annotated(globals()))

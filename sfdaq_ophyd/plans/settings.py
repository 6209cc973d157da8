"""Settings of detectors, online analysis and PV recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator, plan

from ..devices import SfDaqBroker
from ..wire.broker_parameters import check_names
from ..wire.broker_settings import check_dap_settings, check_hardware_settings
from .ask import ask


@plan
def set_detector_settings(
    broker: SfDaqBroker, detector: str, parameters: dict[str, Any]
) -> MsgGenerator[dict[str, Any] | None]:
    """Change hardware settings of a detector; stops the trigger of the whole beamline for 8 s.

    Parameters
    ----------
    broker : SfDaqBroker
    detector : str
    parameters : dict
        Any of ``exptime`` (s), ``delay`` (s), ``detector_mode``, ``gain_mode``; checked before anything is
        sent, because a bad value leaves the beamline without trigger.

    Returns
    -------
    dict or None
        ``{name: [old, new]}`` of what changed.
    """
    checked = check_hardware_settings(detector, parameters)
    yield from bps.checkpoint()
    return (yield from ask(broker, "set_detector_settings", detector=detector, parameters=checked))


@plan
def set_dap_settings(
    broker: SfDaqBroker, detector: str, parameters: dict[str, Any]
) -> MsgGenerator[dict[str, Any] | None]:
    """Change settings of a detector's online analysis.

    Parameters
    ----------
    broker : SfDaqBroker
    detector : str
    parameters : dict
        Checked before anything is sent.

    Returns
    -------
    dict or None
        ``{name: [old, new]}`` of what changed.
    """
    checked = check_dap_settings(detector, parameters)
    yield from bps.checkpoint()
    return (yield from ask(broker, "set_dap_settings", detector=detector, parameters=checked))


@plan
def update_pv_list(
    broker: SfDaqBroker, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> MsgGenerator[dict[str, list[str]] | None]:
    """Add PVs to those the DAQ records, and take others out; nothing is written if nothing changes.

    A change restarts the recording of all PVs: not during a scan.

    Parameters
    ----------
    broker : SfDaqBroker
    add, remove : sequence of str

    Returns
    -------
    dict or None
        What was added and removed.
    """
    add, remove = check_names(add, "add"), check_names(remove, "remove")
    yield from bps.checkpoint()
    return (yield from ask(broker, "update_pv_list", add=add, remove=remove))

"""take_pedestal and power_on_detector: they only queue (contract sections 3.3, 8)."""

from __future__ import annotations

from typing import Any

from ...wire.broker import PEDESTAL_FRAMES
from ...wire.pulse_id import PULSE_RATE
from .detectors import check_belongs, detectors_of
from .pgroups import PGroup, make_directory
from .refusals import ValidationError, required
from .settings import detector_name
from .site import Caller, Site

PEDESTALS = "JF_pedestals"
STAMP = "%Y%m%d_%H%M%S"


def take_pedestal(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Queue a pedestal; the reply's time is a promise."""
    if site.dialect == "current":  # the 2023 server asks for the pgroup last
        required(request, "pgroup", "detectors")
    beamline = caller.beamline
    detectors_of(site.table, beamline)
    rate = request.get("rate_multiplicator", 1)
    required(request, "detectors", documented="no detectors defined")
    detectors = request["detectors"]
    names = list(detectors) if site.dialect == "current" else list(detectors.keys())
    if not names:
        raise ValidationError('no "detectors" provided in the request parameters', "no detectors defined")
    check_belongs(site.table, beamline, *names)
    required(request, "pgroup")
    pgroup = PGroup(site.tree, beamline, request["pgroup"])
    directory = pgroup.raw + PEDESTALS
    make_directory(site.tree, directory)
    pgroup.make_run_info()
    pgroup.check_open()

    prefix = f"{directory}/{site.delays.now():{STAMP}}"
    stored = {**request, "directory_name": PEDESTALS, "request_time": site.delays.request_time()}
    site.tree.write_json(f"{prefix}.json", stored, sort_keys=site.dialect == "current")
    body = {
        "writer_type": "pedestal",
        "detectors": names,
        "rate_multiplicator": rate,
        "channels": None,
        "start_pulse_id": 0,
        "stop_pulse_id": 100,
        "output_file": None,
        "output_file_prefix": prefix,
        "run_log_file": f"{prefix}.log",
        "run_file_json": f"{prefix}.json",
        "run_info_directory": directory,
        "path_to_pgroup": pgroup.raw,
        "directory_name": PEDESTALS,
        "metadata": None,
        "request_time": site.delays.request_time(),
        "timestamp": None,
    }
    if site.dialect == "current":
        body["pedestalmode"] = request.get("pedestalmode", False)
        body["run_log_level"] = request.get("run_log_level")
    site.messages.connect()
    site.messages.send("detector.pedestal", body)
    seconds = PEDESTAL_FRAMES / PULSE_RATE * rate + 10
    if site.dialect == "current":
        return {"message": f"request to take pedestal sent, wait at least {seconds} seconds"}
    zeros = dict.fromkeys(("run_number", "acquisition_number", "unique_acquisition_number"), "0")
    return {"message": f"will do a pedestal now, wait at least {seconds} seconds", **zeros}


def power_on_detector(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Queue a restart of a detector."""
    name, beamline = detector_name(site, request, caller), caller.beamline
    body = {
        "detector_name": name,
        "beamline": beamline,
        "writer_type": "detector_power_on",
        "channels": None,
    }
    site.messages.connect()
    site.messages.send("detector.pedestal", body)
    return site.sends_current(
        {"message": f"request to power on detector {name} sent, wait a few minutes"},
        {"message": "request to power on detector is sent, wait few minutes"},
    )

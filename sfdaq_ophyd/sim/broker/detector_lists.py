"""get_allowed_detectors, get_running_detectors (wire reference sf-daq-broker, sections 3.1, 3.2)."""

from __future__ import annotations

from typing import Any

from .detectors import DetectorEntry, detectors_of
from .refusals import ValidationError
from .site import Caller, Site


def get_allowed_detectors(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return the detectors of the caller's beamline."""
    entries = _entries(site, caller)
    lists = {
        "detectors": [entry.name for entry in entries],
        "visualisation_address": [entry.visualisation_address for entry in entries],
    }
    descriptions = [entry.description for entry in entries]
    if site.dialect == "documented":
        return {"status": None, **lists, "names": descriptions}
    message = f"successfully retrieved list of allowed detectors for {caller.beamline}"
    return {"message": message, **lists, "descriptions": descriptions}


def get_running_detectors(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return which of them write into the buffer."""
    entries = _entries(site, caller)
    for entry in entries:
        site.hardware.refresh(entry.name, site.trigger(caller.beamline).running)
    writing = {entry.name: site.hardware.writing(entry.name) for entry in entries}
    if site.dialect == "documented":
        return {"status": None, "detectors": [name for name, modules in writing.items() if modules[0]]}
    running = [name for name, modules in writing.items() if all(modules)]
    limping = {
        name: {
            "running_modules": [i for i, writes in enumerate(modules) if writes],
            "missing_modules": [i for i, writes in enumerate(modules) if not writes],
        }
        for name, modules in writing.items()
        if any(modules) and not all(modules)
    }
    return {
        "message": "successfully retrieved list of running, limping and missing detectors "
        f"for {caller.beamline}",
        "detectors": running,
        "running_detectors": running,
        "limping_detectors": limping,
        "missing_detectors": [name for name, modules in writing.items() if not any(modules)],
    }


def _entries(site: Site, caller: Caller) -> tuple[DetectorEntry, ...]:
    try:
        return detectors_of(site.table, caller.beamline)
    except ValidationError:
        return ()  # only the documented dialect raises it here: a stranger gets empty lists

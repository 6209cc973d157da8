"""advance_run_number, get_current_run_number, close_pgroup_writing (contract sections 3.4, 3.5, 3.10)."""

from __future__ import annotations

from typing import Any

from .pgroups import PGroup
from .refusals import required
from .site import Caller, Site


def advance_run_number(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Take a new number."""
    pgroup = open_pgroup(site, request, caller)
    number = pgroup.advance("LAST_RUN")
    return _reply(site, f"successfully advanced run number for {caller.beamline} {pgroup.name}", number)


def get_current_run_number(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return the last number given out."""
    pgroup = open_pgroup(site, request, caller)
    number = pgroup.last("LAST_RUN")
    return _reply(site, f"successfully retrieved run number for {caller.beamline} {pgroup.name}", number)


def close_pgroup_writing(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Close a pgroup."""
    required(request, "pgroup")
    pgroup = PGroup(site.tree, caller.beamline, request["pgroup"])
    pgroup.check_open("already ")
    pgroup.close()
    return {"message": f"{pgroup.name} closed for writing"}


def open_pgroup(site: Site, request: Any, caller: Caller) -> PGroup:
    """Return the pgroup of a request, which must be open."""
    required(request, "pgroup")
    pgroup = PGroup(site.tree, caller.beamline, request["pgroup"])
    pgroup.check_open()
    return pgroup


def _reply(site: Site, message: str, number: int) -> dict[str, Any]:
    return site.sends_current({"message": message, "run_number": number}, {"message": str(number)})

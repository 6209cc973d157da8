"""get_pvlist, set_pvlist: what the epics buffer records (contract sections 3.8, 3.9)."""

from __future__ import annotations

from typing import Any

from ...wire.broker import BEAMLINES, Dialect
from .refusals import ValidationError, required
from .site import Caller, Site

_STAMPS = {"current": "%Y-%m-%d_%H:%M:%S", "documented": "%d-%b-%Y_%H:%M:%S"}


def config_directory(dialect: Dialect) -> str:
    """Return where the services keep their configurations."""
    return f"/home/{'svcusr-sfdaq' if dialect == 'current' else 'dbe'}/service_configs"


def config_file(dialect: Dialect, beamline: str | None) -> str:
    """Return the configuration of a beamline's epics buffer."""
    return f"{config_directory(dialect)}/sf.{beamline}.epics_buffer.json"


def stamp(site: Site) -> str:
    """Return the time as it stands in the names of backup files."""
    return site.delays.now().strftime(_STAMPS[site.dialect])


def get_pvlist(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return the list."""
    if site.dialect == "documented":
        try:
            beamline = caller.beamline
        except ValidationError:
            beamline = None
        path = config_file(site.dialect, beamline)
        if not site.tree.exists(path):
            return {"status": f"failure, epics config file not exist for this beamline {beamline}"}
        return {"status": None, "pv_list": site.tree.read_json(path)["pv_list"]}
    path = _existing_config(site, caller.beamline)
    message = f"successfully retrieved list of PVs for {caller.beamline}"
    return {"message": message, "pv_list": site.tree.read_json(path)["pv_list"]}


def set_pvlist(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Replace the list; types are not checked."""
    if site.dialect == "current":
        required(request, "pv_list")
    beamline = caller.beamline
    path = _existing_config(site, beamline)
    pvs = list(dict.fromkeys(request["pv_list"] if site.dialect == "current" else request.get("pv_list", [])))
    config = {"pulse_id_pv": _pulse_id_pv(site, beamline, path), "pv_list": pvs}
    directory, name = path.rsplit("/", 1)
    backup = (
        site.tree.remote(site.tree.make(f"{directory}/backup")) if site.dialect == "current" else directory
    )
    site.tree.write_json(path, config)
    site.tree.write_json(f"{backup}/{name}.{stamp(site)}", config)
    return site.sends_current(
        {"message": f"successfully changed list of PVs for {beamline}", "pv_list": pvs}, {"message": pvs}
    )


def _pulse_id_pv(site: Site, beamline: str, path: str) -> str:
    """Return what stays beside the list; in 2023 it was Alvra's for every beamline."""
    if site.dialect == "documented":
        return BEAMLINES["alvra"].pulse_id_pv
    return site.tree.read_json(path).get("pulse_id_pv", BEAMLINES[beamline].pulse_id_pv)


def _existing_config(site: Site, beamline: str) -> str:
    path = config_file(site.dialect, beamline)
    if not site.tree.exists(path):
        raise ValidationError(
            f"epics buffer config file {path} does not exist for beamline {beamline}",
            f"failure, epics config file not exist for this beamline {beamline}",
        )
    return path

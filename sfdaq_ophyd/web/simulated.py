"""The configuration that fits a running `Facility`."""

from __future__ import annotations

from pathlib import Path

from ..session.config import SfdaqConfig
from ..sim import Facility

PVS = {"motor": "Motor", "motor2": "Motor", "shutter": "Signal", "beam_rate": "ReadOnly", "diode": "ReadOnly"}


def config_of(facility: Facility, directory: str | Path, *, pgroup: str = "p12345") -> SfdaqConfig:
    """Return a configuration with every part of `facility`, under the names the examples use.

    Parameters
    ----------
    directory : str or Path
        The catalog lies in its folder ``catalog``.
    """
    devices: dict[str, dict] = {}
    if facility.pvs:
        devices["pulse_id"] = {"class": "PulseId", "pv": facility.pvs["pulse_id"]}
        for role, cls in PVS.items():
            devices[role] = {"class": cls, "pv": facility.pvs[role]}
        devices["shutter"]["string"] = True
    if facility.eiger:
        devices["eiger"] = {"class": "Eiger", "url": facility.eiger.url}
    if jungfrau := facility.jungfrau:
        files = jungfrau.scene.write_constants(facility.directory / "constants")
        devices["jf"] = {
            "class": "Jungfrau",
            "detector_name": jungfrau.detector_name,
            "endpoints": jungfrau.endpoints,
            "constants": {"gain_file": files.gain, "pedestal_file": files.pedestal},
        }
    if facility.std_daq:
        devices["writer"] = {"class": "StdDaqWriter", "url": facility.std_daq.url}
    if broker := facility.broker:
        wanted = {facility.jungfrau.detector_name: None} if facility.jungfrau else {}
        address = {"url": broker.url, "slow_url": broker.slow_url}
        devices["sfdaq"] = {"class": "SfDaqBroker", **address, "detectors": wanted}
    return SfdaqConfig.model_validate({"directory": directory, "pgroup": pgroup, "devices": devices})

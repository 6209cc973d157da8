"""What lies in the servers' file system before anybody calls."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...wire.broker import BEAMLINES, raw_directory
from ...wire.detector_name import DetectorName
from .dap import DAP_CONFIG, SCRIPTS, dap_file
from .pedestal_files import CENTRAL, stream_config
from .pvlist import config_file
from .site import Site


def lay_out(site: Site, pgroup: str | None, pvs: Iterable[str] | None, running: Iterable[str]) -> None:
    """Make the home beamline's directories and configurations; what is there already stays.

    Parameters
    ----------
    pgroup : str or None
        Exists and is open.
    pvs : iterable of str, or None
        What the epics buffer records; None: the beamline has no such buffer.
    running : iterable of str
        Detectors that take frames from the start.
    """
    if pgroup is not None:
        make_pgroup(site, pgroup)
    for directory in (DAP_CONFIG, SCRIPTS):
        site.tree.make(directory)
    if pvs is not None:
        config = {"pulse_id_pv": BEAMLINES[site.home].pulse_id_pv, "pv_list": list(pvs)}
        _write(site, config_file(site.dialect, site.home), config)
    for name in running:
        detector = site.hardware[name]
        detector.configured = True
        detector.set_state("running")
        height, width = DetectorName.parse(name).raw_shape
        dap = {
            "beam_center_x": width / 2,
            "beam_center_y": height / 2,
            "detector_distance": 0.1,
            "do_peakfinder_analysis": False,
        }
        _write(site, dap_file(name), dap)
        config = {
            "detector_name": name,
            "gain_file": f"/sf/jungfrau/config/gainMaps/{name}/gains.h5",
            "pedestal_file": f"{CENTRAL}/{name}/20200101_000000.h5",
        }
        _write(site, stream_config(name), config)


def make_pgroup(site: Site, pgroup: str, beamline: str | None = None) -> Path:
    """Make a pgroup with an empty ``raw/``, and return where that lies."""
    return site.tree.make(raw_directory(beamline or site.home, pgroup))


def _write(site: Site, path: str, content: Any) -> None:
    if not site.tree.exists(path):
        site.tree.make(path.rsplit("/", 1)[0])
        site.tree.write_json(path, content)

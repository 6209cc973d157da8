"""``meta/scan.json`` of a run, grown by one entry per acquisition (contract section 4.6)."""

from __future__ import annotations

from typing import Any

from ...wire.broker import Dialect
from ...wire.broker_request import STEP_KEYS
from .tree import Tree

_DUMMY = {
    "scan_name": "dummy",
    "name": ["dummy"],
    "Id": ["dummy"],
    "units": ["dummy"],
    "offset": [0],
    "conversion_factor": [1.0],
    "scan_values": [0],
    "scan_readbacks": [0],
    "scan_readbacks_raw": [0],
}


def dummy(dialect: Dialect) -> dict[str, Any]:
    """Return what counts as scan_info where a request has none."""
    return {key: value for key, value in _DUMMY.items() if dialect == "current" or key != "units"}


def append_step(
    tree: Tree, path: str, scan_info: Any, files: list[str], pulses: tuple[int, int], dialect: Dialect
) -> None:
    """Add one acquisition; the parameters of the first one stay."""
    if tree.exists(path):
        scan = tree.read_json(path)
    else:
        scan = {
            "scan_parameters": {key: scan_info[key] for key in scan_info if key not in STEP_KEYS},
            "scan_files": [],
            "pulseIds": [],
            **{key: [] for key in STEP_KEYS},
        }
    for key in STEP_KEYS:
        scan[key].append(scan_info.get(key, []))
    scan["scan_files"].append(files)
    scan["pulseIds"].append(list(pulses))
    tree.write_json(path, scan, sort_keys=dialect == "current")

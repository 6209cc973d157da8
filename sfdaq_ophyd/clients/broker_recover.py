"""Proof from the file system that a retrieval whose reply was lost was carried out (contract section 4.7)."""

from __future__ import annotations

import json
import time
from pathlib import Path, PurePosixPath
from typing import Any

from ..wire.broker_paths import SF, acquisition, padded
from ..wire.broker_reply import Retrieval
from ..wire.broker_values import check_pgroup

REQUEST_ID = "client_request_id"
"""Field of a request, stored in ``meta/acqNNNN.json``, that tells it from all others."""

_MAX_JSON = 16 * 2**20


def find_retrieval(
    sf_root: str | Path,
    pgroup: str,
    request_id: str,
    run_number: int | None = None,
    *,
    timeout: float = 0.0,
    period: float = 0.2,
) -> Retrieval | None:
    """Look for a request in the runs of a pgroup, and rebuild its reply.

    Parameters
    ----------
    sf_root : str or Path
        Where ``/sf`` is mounted here.
    request_id : str
        What was sent as ``client_request_id``.
    run_number : int, optional
        Look only here; None looks at every run.
    timeout : float
        Keep looking for so long, s: a queued request is carried out late.

    Returns
    -------
    Retrieval or None
        None if there is no proof: not found, or found but the data were not requested (the acquisition
        has no entry in ``scan.json``).
    """
    pattern = (
        f"*/data/{check_pgroup(pgroup)}/raw/run{padded(run_number) if run_number is not None else ''}*/meta"
    )
    deadline = time.monotonic() + timeout
    while True:
        for meta in Path(sf_root).glob(pattern):
            found = _in_run(meta, request_id, Path(sf_root))
            if found is not None:
                return found
        if time.monotonic() >= deadline:
            return None
        time.sleep(period)


def _in_run(meta: Path, request_id: str, sf_root: Path) -> Retrieval | None:
    for path in meta.glob("acq*.json"):
        request = _read(path)
        if request.get(REQUEST_ID) != request_id:
            continue
        number = int(request["acquisition_number"])
        stem = (
            str(PurePosixPath(SF, *meta.parent.relative_to(sf_root).parts, "data", acquisition(number))) + "."
        )
        for files in _read(meta / "scan.json").get("scan_files", ()):
            if files and all(isinstance(file, str) and file.startswith(stem) for file in files):
                unique = int(request["unique_acquisition_run_number"])
                return Retrieval(int(request["run_number"]), number, unique, tuple(files), recovered=True)
    return None


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty if it is absent, half written or far too large."""
    try:
        if path.stat().st_size > _MAX_JSON:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

"""Proof from the file system that a retrieval whose reply was lost was carried out (contract section 4.7)."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import WireError
from ..limits import Limit
from ..wire.broker import SF, acquisition, padded
from ..wire.broker_parameters import check_pgroup
from ..wire.broker_reply import Retrieval, number
from ..wire.json_text import load_json

REQUEST_ID = "client_request_id"
"""Field of a request, stored in ``meta/acqNNNN.json``, that tells it from all others."""

_NUMBERS = ("run_number", "acquisition_number", "unique_acquisition_run_number")

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
    limit = Limit(timeout)
    while True:
        with contextlib.suppress(OSError):  # a file system that is away for a moment
            for meta in Path(sf_root).glob(pattern):
                found = _in_run(meta, request_id, Path(sf_root))
                if found is not None:
                    return found
        if limit.reached():
            return None
        time.sleep(limit.step(period))


def _in_run(meta: Path, request_id: str, sf_root: Path) -> Retrieval | None:
    for path in meta.glob("acq*.json"):
        request = _read(path)
        if request.get(REQUEST_ID) != request_id:
            continue
        try:
            run_number, acquisition_number, unique = (number(request.get(key), key) for key in _NUMBERS)
        except WireError:
            continue
        folder = PurePosixPath(SF, *meta.parent.relative_to(sf_root).parts, "data")
        stem = f"{folder / acquisition(acquisition_number)}."
        entries = _read(meta / "scan.json").get("scan_files")
        for files in entries if isinstance(entries, list) else ():
            if _are_paths(files) and all(file.startswith(stem) for file in files):
                return Retrieval(run_number, acquisition_number, unique, tuple(files), recovered=True)
    return None


def _are_paths(files: object) -> bool:
    return isinstance(files, list) and bool(files) and all(isinstance(file, str) for file in files)


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty if it is absent, half written or far too large."""
    try:
        if path.stat().st_size > _MAX_JSON:
            return {}
        content = load_json(path.read_bytes())
    except (OSError, WireError):
        return {}
    return content if isinstance(content, dict) else {}

"""Names of the files and directories the DAQ makes below ``/sf`` (contract sections 4.4, 8)."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from ..errors import RequestError

SF = "/sf"
"""Where the data tree is mounted on consoles and servers; replies of the broker use it."""

TAG_LENGTH = 50
"""A user tag in a directory name is cut to this many characters."""

_ILLEGAL = re.compile(r"[^A-Za-z0-9_\-+.]")


def clean_tag(tag: str) -> str:
    """Return a user tag as the broker writes it into the name of the run directory.

    Examples
    --------
    >>> clean_tag("sample A/b:c#1"), clean_tag("a_b-c+d.e."), clean_tag("///")
    ('sample_A_b_c_1', 'a_b-c+d.e_', '___')
    """
    cleaned = _ILLEGAL.sub("_", tag)[:TAG_LENGTH]
    return cleaned if not cleaned or cleaned[-1].isalnum() else cleaned[:-1] + "_"


def padded(number: int) -> str:
    """Write a run or acquisition number as in file names: at least four digits, minus included."""
    return f"{number:04}"


def run_directory(run_number: int, tag: str | None = None) -> str:
    """Return the name of a run's directory; `tag` only where it goes into the name.

    Examples
    --------
    >>> run_directory(2), run_directory(2, "sample A")
    ('run0002', 'run0002-sample_A')
    """
    name = f"run{padded(run_number)}"
    return f"{name}-{clean_tag(tag)}" if tag else name


def acquisition(acquisition_number: int) -> str:
    """Return the stem of an acquisition's files, e.g. ``acq0001``."""
    return f"acq{padded(acquisition_number)}"


def raw_directory(beamline: str, pgroup: str) -> str:
    """Return the directory of a pgroup's raw data, with the slash the broker puts at its end."""
    return f"{SF}/{beamline}/data/{pgroup}/raw/"


def error_file(path: str) -> str:
    """Return where a writer reports that it could not write `path`."""
    return f"{path}.err"


def log_file(path: str) -> str:
    """Return the writer's log of a file in a run's ``data/``.

    Examples
    --------
    >>> log_file("/sf/bernina/data/p12345/raw/run0001/data/acq0001.PVDATA.h5")
    '/sf/bernina/data/p12345/raw/run0001/logs/acq0001.PVDATA.log'
    """
    data = PurePosixPath(path)
    return str(data.parent.parent / "logs" / data.with_suffix(".log").name)


def raw_file(path: str) -> str:
    """Return where the raw file behind a converted file in ``data/`` lies."""
    data = PurePosixPath(path)
    return str(data.parent.parent / "raw_data" / data.name)


def local_path(path: str, sf_root: str | Path = SF) -> Path:
    """Return where a path of the broker lies on this machine, which has ``/sf`` at `sf_root`.

    Raises
    ------
    RequestError
        `path` is not below ``/sf``, or climbs out of it.

    Examples
    --------
    >>> local_path("/sf/bernina/data/p12345/raw/", "/tmp/sf").as_posix()
    '/tmp/sf/bernina/data/p12345/raw'
    """
    parts = PurePosixPath(path).parts
    if parts[:2] != ("/", "sf") or ".." in parts:
        raise RequestError("path", path, f"an absolute path below {SF}, without '..'")
    return Path(sf_root).joinpath(*parts[2:])

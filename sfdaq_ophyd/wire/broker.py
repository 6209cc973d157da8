"""The two services: dialects, paths and limits (wire reference sf-daq-broker, sections 1 to 3).

The broker answers on port 10002, the slow broker (wire reference sf-daq-broker, section 10) one port above.
*current* is what production runs; *documented* is what the API document says, with the behaviour of the 2023
server where it is silent. The calls are in `broker_operations`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from ..errors import RequestError

Dialect = Literal["current", "documented"]
Service = Literal["broker", "slow"]

DIALECTS: tuple[Dialect, ...] = ("current", "documented")

MAX_BODY = 102_400
"""Largest request body the server reads, bytes; about 7800 selected pulse ids."""

TRIGGER_RUNNING, TRIGGER_STOPPED = 254, 255
"""Event codes of a beamline's trigger PV."""

PEDESTAL_FRAMES = 3000
"""Frames of one manual pedestal, all three gain stages together."""

PEDESTALS = "JF_pedestals"
"""Folder in a pgroup's ``raw/`` where pedestals are."""

RUN_LOG_LEVEL = "INFO"
"""Sent with every pedestal: without it today's writer rejects the request although the reply is ok."""


def dialect_of(reply: object) -> Dialect | None:
    """Tell the dialect from a reply of get_allowed_detectors, the one safe probe; None if it fits neither.

    Examples
    --------
    >>> dialect_of({"status": "ok", "detectors": [], "descriptions": []})
    'current'
    >>> dialect_of({"detectors": [], "names": []})
    'documented'
    """
    if not isinstance(reply, dict):
        return None
    if "status" in reply and ("descriptions" in reply or "exception" in reply):
        return "current"
    if "names" in reply and "status" not in reply:
        return "documented"
    return None


@dataclass(frozen=True, slots=True)
class Beamline:
    """What the DAQ knows of one beamline.

    The `subnet` is how its consoles' addresses begin: the broker has no beamline parameter. The PVs are
    today's pulse id, a double, and the trigger of all its detectors: 254 where it runs, 255 where it stands.
    """

    name: str
    subnet: str
    pulse_id_pv: str
    event_code_pv: str


def _beamline(name: str, subnet: int, evr: str, evg: str) -> Beamline:
    return Beamline(name, f"129.129.{subnet}", f"{evr}:RX-PULSEID", f"{evg}-EVG0:SoftEvt-EvtCode-SP")


BEAMLINES: dict[str, Beamline] = {
    beamline.name: beamline
    for beamline in (
        _beamline("alvra", 242, "SLAAR11-LTIM01-EVR0", "SAR-CVME-TIFALL4"),
        _beamline("bernina", 243, "SLAAR21-LTIM01-EVR0", "SAR-CVME-TIFALL5"),
        _beamline("cristallina", 244, "SARES30-LTIM01-EVR0", "SAR-CVME-TIFALL6"),
        _beamline("diavolezza", 245, "SATES30-CVME-EVR0", "SAT-CVME-TIFALL4"),
        _beamline("maloja", 246, "SATES20-CVME-EVR0", "SAT-CVME-TIFALL5"),
        _beamline("furka", 247, "SATES30-CVME-EVR0", "SAT-CVME-TIFALL6"),
    )
}
"""By name, in the order of their networks."""

SUBNET_LENGTH = 11
"""Characters of an address that decide."""


def beamline_of_address(address: str) -> Beamline | None:
    """Return the beamline a client address belongs to, None if it is nobody's.

    Examples
    --------
    >>> beamline_of_address("129.129.243.17").name
    'bernina'
    """
    subnet = address[:SUBNET_LENGTH]
    return next((beamline for beamline in BEAMLINES.values() if beamline.subnet == subnet), None)


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


RAW_DATA = "raw_data"
"""Folder in a run for the raw files behind converted ones."""


def error_file(path: str) -> str:
    """Return where a writer reports that it could not write `path`.

    That is beside the file that was announced, in ``data/``, also where only its raw file is expected.

    Examples
    --------
    >>> error_file("/sf/bernina/data/p12345/raw/run0001/raw_data/acq0001.JF01T03V01.h5")
    '/sf/bernina/data/p12345/raw/run0001/data/acq0001.JF01T03V01.h5.err'
    """
    file = PurePosixPath(path)
    if file.parent.name == RAW_DATA:
        file = file.parent.parent / "data" / file.name
    return f"{file}.err"


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
    return str(data.parent.parent / RAW_DATA / data.name)


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

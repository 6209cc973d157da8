"""``sfdaq init``: a profile collection of one's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, RequestError

ASKED = {
    "pgroup": ("p12345", "Data group, p and five digits"),
    "pulse_id": ('"SLAAR21-LTIM01-EVR0:RX-PULSEID"', "PV of the pulse id"),
    "eiger": ("http://eiger-dcu", "Address of the Eiger's control unit, http://..."),
    "jungfrau": ("JF01T03V01", "Name of the Jungfrau, e.g. JF01T03V01"),
    "endpoints": (
        '["tcp://sf-daqsync-05:30000", "tcp://sf-daqsync-05:30001", "tcp://sf-daqsync-05:30002"]',
        "Endpoints of its streams, tcp://host:port, with commas between",
    ),
    "std_daq": ("http://std-daq:5000", "Address of the standard DAQ, http://... or ws://..."),
    "broker": ("http://sf-daq:10002", "Address of the sf-daq broker, http://..."),
}
"""Name of an address to the text in facility.example.yaml that it replaces, and the question."""

BLOCKS = {
    "pulse_id": "pulse_id",
    "eiger": "eiger",
    "jungfrau": "jf",
    "endpoints": "jf",
    "std_daq": "writer",
    "broker": "sfdaq",
}
"""Name of an address to the device that needs it."""

NOT_ASKED = {"sample_x", "shutter", "beam_rate", "redis_url", "constants", "baseline", "suspenders"}
"""Keys that stay comments, for a person to fill in."""


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if missing.")],
    beamline: Annotated[
        str, typer.Option(help="Its name; asks for the addresses not given. Default: the simulator.")
    ] = "",
    pgroup: Annotated[str, typer.Option(help="p and five digits.")] = "",
    pulse_id: Annotated[str, typer.Option(help="PV of the pulse id.")] = "",
    eiger: Annotated[str, typer.Option(help="http://... of the control unit.")] = "",
    jungfrau: Annotated[str, typer.Option(help="Detector name, e.g. JF01T03V01.")] = "",
    endpoints: Annotated[str, typer.Option(help="tcp://host:port of its streams, with commas.")] = "",
    std_daq: Annotated[str, typer.Option(help="http://... or ws://... of the standard DAQ.")] = "",
    broker: Annotated[str, typer.Option(help="http://... of the sf-daq broker.")] = "",
) -> None:
    """Write a profile collection: startup files, and a commented sfdaq.yaml for the simulator or a beamline.

    Example: sfdaq init mybeamline
    """
    from ..session.startup import PROFILE

    given = {
        "pgroup": pgroup,
        "pulse_id": pulse_id,
        "eiger": eiger,
        "jungfrau": jungfrau,
        "endpoints": endpoints,
        "std_daq": std_daq,
        "broker": broker,
    }
    if not beamline and any(given.values()):
        raise RequestError("--beamline", "", "a name, where addresses are given")
    for name in ("sfdaq.yaml", "startup"):
        if (directory / name).exists():
            raise RequestError("DIR", str(directory), f"a folder without {name}; this one is left as it is")
    if beamline:
        for name, (_, question) in ASKED.items():
            given[name] = given[name] or _answer(question)
        text = beamline_file((PROFILE / "facility.example.yaml").read_text(), beamline, given)
    else:
        text = (PROFILE / "sim.yaml").read_text().replace("directory: ~/sfdaq/sim", "directory: data")
    _check(text)
    directory.mkdir(parents=True, exist_ok=True)
    ours = shutil.ignore_patterns("__pycache__", "existing_plans*")
    shutil.copytree(PROFILE / "startup", directory / "startup", ignore=ours, copy_function=shutil.copyfile)
    (directory / "sfdaq.yaml").write_text(text)
    print(f"{directory / 'sfdaq.yaml'}: {'beamline ' + beamline if beamline else 'the simulated facility'}")
    print(f"sfdaq doctor --config {directory / 'sfdaq.yaml'}    # is everything there?")
    print(f"sfdaq session {directory}    # open it in IPython")


def beamline_file(example: str, beamline: str, given: dict[str, str]) -> str:
    """Return the example with the addresses in it, and with what has none commented out."""
    text = example.replace("beamline: bernina", f"beamline: {json.dumps(beamline)}")
    text = text.replace("directory: /sf/bernina/applications/sfdaq", "directory: data")
    text = text.replace("    directory: /", "    # directory: /")
    absent = {block for name, block in BLOCKS.items() if not given[name]} | NOT_ASKED
    for name, (old, _) in ASKED.items():
        if not given[name]:
            continue
        new: object = given[name]
        if name == "endpoints":
            new = [word.strip() for word in given[name].split(",")]
        text = text.replace(old, str(new) if name in ("pgroup", "jungfrau") else json.dumps(new))
    if not given["pgroup"]:
        absent.add("pgroup")
    if not given["jungfrau"]:
        absent.add("detectors")
    if absent.issuperset(BLOCKS.values()):
        absent.add("devices")
    return "".join(_commented(text, absent))


def _commented(text: str, absent: set[str]):
    """Yield lines; the blocks of these names, whatever their depth, as comments."""
    inside = None
    for line in text.splitlines(keepends=True):
        depth = len(line) - len(line.lstrip())
        if inside is not None and line.strip() and depth <= inside:
            inside = None
        found = re.match(r" *(\w+):", line)
        if inside is None and found and found[1] in absent:
            inside = depth
        yield line if inside is None or not line.strip() else f"{line[:inside]}# {line[inside:]}"


def _answer(question: str) -> str:
    try:
        return input(f"{question} (empty: none): ").strip()
    except EOFError:
        print()
        return ""


def _check(text: str) -> None:
    """Read the file as a session will; ConfigError without anything written."""
    from ..session import load_config

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sfdaq.yaml"
        path.write_text(text)
        try:
            load_config(path, port=1024, prefix="SIM:")
        except ConfigError as exc:
            raise ConfigError(str(exc).replace(folder + os.sep, "")) from None

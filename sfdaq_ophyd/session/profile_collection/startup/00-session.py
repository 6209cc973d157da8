"""The session from sfdaq.yaml: metadata, catalog, RunEngine, and every device under its name."""

from pathlib import Path

from sfdaq_ophyd.session import open_session

session = open_session(Path(__file__).resolve().parents[1])

RE = session.RE
sd = session.sd
bec = session.bec
catalog = session.catalog

globals().update(session.devices)  # nothing is contacted here

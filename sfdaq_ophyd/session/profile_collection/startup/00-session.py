"""The session: metadata, catalog and RunEngine, from sfdaq.yaml."""

from pathlib import Path

from sfdaq_ophyd.session import open_session

session = open_session(Path(__file__).resolve().parents[1])

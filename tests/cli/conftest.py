"""For the tests of commands in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfdaq_ophyd.cli import failed_files


@pytest.fixture(autouse=True)
def no_log_of_this_process(monkeypatch):
    """A log would take pytest's own hooks for threads and destructors."""
    monkeypatch.setattr(
        failed_files, "keep_log", lambda: Path("/home/a-user-of-some-name/.local/state/sfdaq/log")
    )

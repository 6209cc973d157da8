"""Files that failed: on one screen of a terminal, whatever their names and reasons are."""

from __future__ import annotations

import logging
import os
import shutil
from types import SimpleNamespace

import pytest

from sfdaq_ophyd import log
from sfdaq_ophyd.cli.failed_files import FailedFiles

BAR = 1
"""Lines of the bar of ``sfdaq convert``."""


@pytest.fixture
def on_terminal(monkeypatch):
    """A terminal of 80 columns, on which nothing is yet."""
    monkeypatch.setattr(log, "sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    monkeypatch.setattr(log, "_n_shown", 0)
    monkeypatch.setattr(log, "_handler", None)


@pytest.mark.parametrize("reason", ["damaged", "no readable HDF5 in these bytes, " * 20])
@pytest.mark.parametrize("folder", ["raw", "/sf/bernina/data/p12345/raw/run0007-with-a-name"])
def test_end_when_many_failed_then_all_fits_on_one_screen(on_terminal, capsys, caplog, folder, reason):
    caplog.set_level(logging.INFO, logger="sfdaq_ophyd")
    failed = FailedFiles()
    for i in range(40):
        advice = f"Look at number {i % 4} " + "of the files that are there, and at its disk, " * 4
        failed.add(f"{folder}/{i}.h5: {reason}. {advice}", advice, f"Traceback of {i}")
    failed.end(40)
    lines = capsys.readouterr().err.splitlines()
    height = sum(-(-len(line) // 80) for line in lines)
    assert height + BAR <= log.SCREEN, lines
    assert lines[0].startswith(f"sfdaq: {folder}/0.h5: ")
    assert [line[12:28] for line in lines if "What to do" in line] == [": Look at number"] * 2
    assert lines[-1].startswith("sfdaq: 40 of 40 files failed; all are in /home")
    assert all(
        any(f"Traceback of {i}" == each.splitlines()[-1] for each in caplog.messages) for i in range(40)
    )


def test_end_when_none_failed_then_nothing_is_said(on_terminal, capsys):
    FailedFiles().end(40)
    assert capsys.readouterr().err == ""

"""``sfdaq repair`` on many files."""

from __future__ import annotations

from typer.testing import CliRunner

from sfdaq_ophyd.cli import app
from sfdaq_ophyd.cli.failed_files import KEPT
from sfdaq_ophyd.log import SCREEN


def test_repair_when_many_files_fail_then_the_first_are_shown_and_the_log_has_all(tmp_path, caplog):
    files = [str(tmp_path / f"{i}.h5") for i in range(SCREEN + 20)]
    with caplog.at_level("INFO", logger="sfdaq_ophyd"):
        done = CliRunner().invoke(app, ["repair", *files])
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert len(lines) == SCREEN - KEPT + 1
    assert lines[-1].startswith(f"sfdaq: {len(files)} of {len(files)} files failed; all are in ")
    for file in files:
        assert any(file in message and "Traceback (most" in message for message in caplog.messages), file

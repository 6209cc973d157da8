"""The log, and failures on one screen."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfdaq_ophyd.errors import ConfigError, FramesMissing, RequestError, ServiceTimeout
from sfdaq_ophyd.log import LINES, MAX_LOG, attempt, config_sfdaq_logging, failure


def test_config_when_called_twice_then_one_handler_and_the_file_has_the_line(tmp_path):
    logger = logging.getLogger("sfdaq_ophyd")
    before, level = list(logger.handlers), logger.level
    try:
        config_sfdaq_logging("DEBUG")
        handler = config_sfdaq_logging("INFO", tmp_path / "log")
        assert [h for h in logger.handlers if h not in before] == [handler]
        logging.getLogger("sfdaq_ophyd.wire").info("armed %s", "eiger")
        handler.flush()
        assert "sfdaq_ophyd.wire: armed eiger" in (tmp_path / "log").read_text()
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)


def in_a_process(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", f"import logging\nfrom sfdaq_ophyd.log import *\n{code}"],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()


def test_log_when_kept_then_warnings_are_a_line_each_and_the_log_has_them_all(tmp_path):
    code = (
        "path = keep_log(); assert keep_log() == path\n"
        "for i in range(20): logging.getLogger('sfdaq_ophyd.x').warning('first\\nsecond %d', i)\n"
        "logging.getLogger('bluesky').error('Run aborted')\n"
        "import threading, warnings; warnings.warn('old')\n"
        "t = threading.Thread(target=lambda: 1 / 0, name='poll'); t.start(); t.join()\n"
        "print(path)"
    )
    path, said = in_a_process(code, SFDAQ_LOG=str(tmp_path / "deep" / "log"))
    assert said == [
        "warning: first second 0",
        "warning: first second 1",
        f"more warnings are in {path.strip()}",
    ]
    text = (tmp_path / "deep" / "log").read_text()
    for words in ("second 19", "Run aborted", "UserWarning: old", "thread poll ended: ZeroDivisionError"):
        assert words in text


@pytest.mark.parametrize("place", ["SFDAQ_LOG", "XDG_STATE_HOME"])
def test_log_when_its_place_cannot_be_written_then_another(tmp_path, place):
    (tmp_path / "file").write_text("")
    env = {"SFDAQ_LOG": "", "HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    path, said = in_a_process("print(keep_log())", **{**env, place: str(tmp_path / "file" / "x")})
    assert said == [] and Path(path.strip()).parent.parent == tmp_path


@pytest.mark.parametrize("place", ["SFDAQ_LOG", "XDG_STATE_HOME"])
def test_log_when_its_place_is_in_the_home_of_nobody_then_another(tmp_path, place):
    env = {"SFDAQ_LOG": "", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    path, said = in_a_process("print(keep_log())", **{**env, place: "~nobody-of-this-name/x"})
    assert said == [] and Path(path.strip()).is_relative_to(tmp_path)


def test_log_when_there_is_no_home_then_the_place_given_is_taken(tmp_path):
    code = (
        "import pathlib\n"
        "def none(*_): raise RuntimeError('no home')\n"
        "pathlib.Path.home = none\n"
        "print(keep_log())"
    )
    path, said = in_a_process(code, SFDAQ_LOG=str(tmp_path / "log"))
    assert (path.strip(), said) == (str(tmp_path / "log"), [])


def test_log_when_it_is_long_then_begun_anew_and_the_old_one_kept(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x" * (MAX_LOG + 1))
    in_a_process("keep_log()", SFDAQ_LOG=str(path))
    assert path.stat().st_size == 0 and (tmp_path / "log.1").stat().st_size > MAX_LOG


def chained(*links):
    """Exceptions, each raised from the next."""
    for exc, cause in zip(links, links[1:]):
        exc.__cause__ = cause
    return links[0]


@pytest.mark.parametrize(
    ("exc", "told"),
    [
        (RequestError("speed", 0, "more"), ["sfdaq: speed=0: expected more"]),
        (
            ConfigError("\n".join(f"f:{i}: x" for i in range(50))),
            ["sfdaq: f:0: x", *[f"f:{i}: x" for i in range(1, LINES - 1)], f"and {50 - LINES + 1} more"],
        ),
        (
            chained(RuntimeError("status"), FramesMissing("jf", asked=3, got=1), OSError("gone")),
            ["scan 1 failed:", "  jf: 1 of 3 frames came", f"  What to do: {FramesMissing.advice}"],
        ),
        (
            ServiceTimeout("jf: open", 3, "idle", "Turn it on"),
            [
                "scan 1 failed:",
                "  jf: open: not done after 3 s; last state idle.",
                "  What to do: Turn it on",
            ],
        ),
    ],
)
def test_failure_when_told_then_these_lines(exc, told, monkeypatch):
    monkeypatch.setattr("sfdaq_ophyd.log.keep_log", lambda: Path("log"))
    lines = failure(exc, "scan 1").splitlines()
    assert lines[: len(told)] == told
    assert lines[len(told) :] in ([], ["  Traceback: log"])


def test_failure_when_the_sentence_is_endless_then_its_beginning_and_its_end(monkeypatch):
    monkeypatch.setattr("sfdaq_ophyd.log.keep_log", lambda: Path("log"))
    with pytest.raises(RuntimeError) as raised, attempt("counting"):
        raise RuntimeError(f"begin {'x ' * 10**5} end")
    lines = failure(raised.value, "scan 1").splitlines()
    assert lines[0] == "scan 1 failed while counting:"
    assert len(lines) <= LINES and all(len(line) < 1000 for line in lines)
    assert lines[1].startswith("  RuntimeError: begin x") and "end (" in lines[1]

"""The log, and failures on one screen."""

import logging
import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from sfdaq_ophyd import log
from sfdaq_ophyd.errors import ConfigError, FramesMissing, RequestError, ServiceTimeout
from sfdaq_ophyd.log import LINES, MAX_LOG, SCREEN, attempt, config_sfdaq_logging, count_lines, failure, room


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


class Terminal(StringIO):
    """A terminal of 80 columns; `height` is how many of its lines are used."""

    def isatty(self):
        return True

    @property
    def height(self):
        return sum(max(1, -(-len(line) // 80)) for line in self.getvalue().splitlines())


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(log, "sys", SimpleNamespace(stderr=terminal))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    monkeypatch.setattr(log, "keep_log", lambda: Path("/home/me/.local/state/sfdaq/sfdaq.log"))
    monkeypatch.setattr(log, "_n_shown", 0)
    monkeypatch.setattr(log, "_handler", None)
    return terminal


DEVICES = "scanning motor with pulse_id, eiger, jf, writer (standard DAQ), sfdaq (broker)"


def long_failure(advice="Look at the detector and its power supply, the network and the log. " * 3):
    exc = ServiceTimeout("writer: reading images", 5, f"{'144 frames on port 30001, ' * 20}READY", advice)
    for note in (f"while {DEVICES}", "and then unstaging failed: " + "no answer " * 20):
        exc.add_note(note)
    return exc


def test_failure_when_on_a_terminal_then_no_more_lines_than_on_a_pipe(terminal):
    print(failure(long_failure(), "sfdaq demo"), file=terminal)
    assert terminal.height == LINES, terminal.getvalue()
    lines = terminal.getvalue().splitlines()
    assert lines[0] == "sfdaq demo failed while scanning motor with pulse_id, eiger, jf, writer ..."
    assert lines[1].startswith("  writer: reading images: not done after 5 s; last state 144 frames")
    assert any("READY" in line for line in lines), "what was seen last is not cut off"
    assert lines[-2].startswith("  What to do: Look at") and lines[-1].startswith("  Traceback: /home")


def test_failure_when_the_command_has_said_much_and_warned_then_all_fits_on_one_screen(terminal, monkeypatch):
    screen = log._Screen(1, float("inf"))
    screen.setStream(terminal)
    monkeypatch.setattr(log, "_handler", screen)
    for i in range(20):
        screen.handle(logging.makeLogRecord({"name": "x", "levelno": 30, "msg": f"{i} is late " * 20}))
    assert terminal.height == 2, "one warning, and where the others are"
    for line in ("Starting", "Taking", "Pedestal", "x" * 78, "rate", "rate"):
        print(line, file=terminal)
        count_lines(line)
    assert room() == SCREEN - terminal.height
    print(failure(long_failure(), "sfdaq demo"), file=terminal)
    assert terminal.height == SCREEN, terminal.getvalue()
    lines = terminal.getvalue().splitlines()[-4:]
    assert [line.split()[0] for line in lines] == ["sfdaq", "writer:", "What", "Traceback:"]


def test_failure_when_there_is_room_then_what_to_do_has_two_lines(terminal):
    advice = "A slow machine needs more: sfdaq demo or sim --start-timeout, sim.start_timeout in sfdaq.yaml"
    lines = failure(ServiceTimeout("start", 60, "importing", advice), "sfdaq sim").splitlines()
    assert " ".join(" ".join(lines[2:4]).split()) == f"What to do: {advice}"


@pytest.mark.parametrize("words", ["x " * 1000, "\n".join(f"f:{i}: {'x ' * 60}" for i in range(50))])
def test_failure_when_a_mistake_in_a_file_is_long_then_it_fits_as_well(terminal, words):
    print(failure(ConfigError(words), "sfdaq doctor"), file=terminal)
    assert LINES - 2 <= terminal.height <= LINES, terminal.getvalue()


def test_warnings_when_a_command_ends_by_itself_then_one_is_shown_and_where_the_others_are(tmp_path):
    code = (
        "path = keep_log(serves=False)\n"
        "for i in range(9): logging.getLogger('sfdaq_ophyd.x').warning('late %d', i)\n"
        "print(path)"
    )
    path, said = in_a_process(code, SFDAQ_LOG=str(tmp_path / "log"))
    assert said == ["warning: late 0", f"more warnings are in {path.strip()}"]

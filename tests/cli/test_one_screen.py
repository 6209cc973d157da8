"""Every command says on one screen what failed; the traceback is in the log. Ctrl-C ends it in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

SCREEN = 12

SMALL = """
from functools import partialmethod
from sfdaq_ophyd.sim import Facility
Facility.__init__ = partialmethod(Facility.__init__, jungfrau_name="JF03T01V02")
"""
"""A facility with one module, for those who do not look at its images."""

HOOK = """
enter = Facility.__enter__
def entered(self):
    facility = enter(self)
    {fault}
    return facility
Facility.__enter__ = entered
"""

ALL_OF_THEM = """
import contextlib, json, sys
from unittest import mock
from sfdaq_ophyd.cli import main
from sfdaq_ophyd.errors import ServiceTimeout
from sfdaq_ophyd.files.convert import Converted
for name, replaced, words in json.load(sys.stdin):
    sys.argv, code = ["sfdaq", *words], 0
    with contextlib.ExitStack() as stack:
        for target, does in replaced.items():
            does = eval(does)
            stack.enter_context(mock.patch(target, does if callable(does) else mock.Mock(side_effect=does)))
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    for stream in (sys.stdout, sys.stderr):
        print("END", name, code, file=stream, flush=True)
"""
"""The commands in one process, which imports once; each with functions replaced, or what these raise."""


def command(injected, *words):
    """The command line of ``sfdaq`` in which `injected` was executed before."""
    code = f"import sys\n{injected}\nfrom sfdaq_ophyd.cli import main\nmain()"
    return [sys.executable, "-c", code, *map(str, words)]


@pytest.fixture(scope="module")
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


CONFIG = "directory: .\ndevices:\n  eiger: {class: Eiger, url: http://127.0.0.1:9}\n"


STARVED = "ServiceTimeout('start of the simulated jungfrau', 60, 'importing', 'Give it longer')"
ENTER = "sfdaq_ophyd.sim.Facility.__enter__"
FAILING = {
    "demo starved": (
        *(ENTER, STARVED, ["demo"]),
        [
            "sfdaq demo failed while starting the simulated facility and the catalog:",
            "  start of the simulated jungfrau: not done after 60 s; last state importing.",
            "  What to do: Give it longer",
        ],
    ),
    "demo": (ENTER, "KeyError('x')", ["demo"], ["KeyError: 'x' (", "What to do: This was not foreseen"]),
    "sim": (
        *(ENTER, STARVED, ["sim"]),
        ["sfdaq sim failed:", "not done after 60 s", "What to do: Give it longer"],
    ),
    "watch starved": (
        *(ENTER, STARVED, ["watch", "--config", "sim"]),
        ["sfdaq watch failed:", "What to do: Give it longer"],
    ),
    "watch": (
        *("sfdaq_ophyd.web.sources.watch_of", "ZeroDivisionError('division by zero')"),
        ["watch", "--config", "sfdaq.yaml"],
        ["sfdaq watch failed:", "ZeroDivisionError: division by zero ("],
    ),
    "doctor": (
        *("sfdaq_ophyd.session.checks.run_checks", "KeyError('no such finding')"),
        ["doctor", "--config", "sfdaq.yaml"],
        ["sfdaq doctor failed:", "'no such finding'"],
    ),
    "convert": (
        *("sfdaq_ophyd.cli.convert.plan", "OSError(5, 'Input/output error', '/raw')"),
        ["convert", "raw", "out"],
        ["sfdaq convert failed:", "Input/output error: '/raw' ("],
    ),
}
"""What is replaced, by what it raises, in which command; and lines of its screen."""

BROKEN = {
    "sfdaq_ophyd.cli.convert.plan": "lambda *args, **kwargs: []",
    "sfdaq_ophyd.cli.convert.run": "lambda *args, **kwargs: "
    "(Converted(f'raw/{i}.h5', '', 0, 'failed', 'damaged') for i in range(40))",
}


TAKEN = {"sim": ["--only", "eiger", "--port-base"], "watch": ["--config", "sfdaq.yaml", "--port"]}
"""Commands that serve, and the option with their port."""


@pytest.fixture(scope="module")
def failed(tmp_path_factory, taken_port):
    """The screen and the exit code of each of the commands that fail, and the log of all."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "sfdaq.yaml").write_text(CONFIG)
    (folder / "raw").mkdir()
    cases = [(name, {target: fault}, words) for name, (target, fault, words, _) in FAILING.items()]
    cases.append(("many", BROKEN, ["convert", "raw", "out"]))
    cases += [(f"{name} taken", {}, [name, *options, str(taken_port)]) for name, options in TAKEN.items()]
    done = subprocess.run(
        [sys.executable, "-c", ALL_OF_THEM],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "SFDAQ_LOG": str(folder / "sfdaq.log"), "HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    screens = {name: ([], []) for name, *_ in cases}
    for text in (done.stdout, done.stderr):
        lines = []
        for line in text.splitlines():
            lines.append(line)
            if line.startswith("END "):
                _, *name, code = lines.pop().split()
                screens[" ".join(name)][0].extend(lines)
                screens[" ".join(name)][1].append(code)
                lines = []
    return screens, folder / "sfdaq.log"


@pytest.mark.parametrize("name", FAILING)
def test_command_when_it_fails_then_one_screen_and_the_traceback_in_the_log(failed, name):
    screens, log = failed
    screen, codes = screens[name]
    assert codes == ["1", "1"]
    assert len(screen) <= SCREEN and not any("Traceback (most" in line for line in screen), screen
    for text in FAILING[name][3]:
        assert any(text in line for line in screen), (text, screen)
    assert screen[-1] == f"  Traceback: {log}"
    _, _, logged = log.read_text().partition(f"sfdaq {name.split()[0]} failed: ")
    assert "Traceback (most recent call last)" in logged


@pytest.mark.parametrize("name", TAKEN)
def test_server_when_its_port_is_taken_then_one_screen_with_the_address(failed, taken_port, name):
    screen, codes = failed[0][f"{name} taken"]
    assert codes == ["1", "1"] and len(screen) <= SCREEN, screen
    assert f"sfdaq {name} failed:" in screen
    assert any(str(taken_port) in line and "in use" in line for line in screen), screen


def test_demo_when_a_detector_fails_then_the_device_and_its_last_words(tmp_path):
    log = tmp_path / "sfdaq.log"
    fault = SMALL + HOOK.format(fault="facility.eiger.fail_next('drop', count=9)")
    done = subprocess.run(
        command(fault, "demo", "--points", "2", "--eiger-model", "500K"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "SFDAQ_LOG": str(log), "HOME": str(tmp_path)},
    )
    screen = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 1 and len(screen) <= SCREEN, screen
    assert any("sfdaq demo failed while scanning motor with" in line for line in screen), screen
    assert any(line.startswith("  eiger: 0 of 1 frames came") for line in screen), screen
    assert any(line.startswith("  What to do: ") for line in screen), screen
    assert "FailedStatus" in log.read_text()


def test_convert_when_every_file_is_broken_then_some_are_named_and_all_are_in_the_log(failed):
    screens, log = failed
    screen, codes = screens["many"]
    assert codes == ["1", "1"] and len(screen) <= SCREEN, screen
    assert screen[0] == "sfdaq: raw/0.h5: damaged"
    assert screen[-1] == f"sfdaq: 40 of 40 files failed; all are in {log}"
    assert all(f"raw/{i}.h5: damaged" in log.read_text() for i in range(40))


def press(process, ended, repeats):
    """Press Ctrl-C; again where the RunEngine may not hear it: it takes none in its first 0.1 s."""
    process.send_signal(signal.SIGINT)
    while repeats and not ended.wait(2):
        process.send_signal(signal.SIGINT)


@pytest.mark.parametrize(("seen", "repeats"), [("Starting the simulated", False), ("Scanning motor", True)])
def test_demo_when_ctrl_c_then_it_ends_in_order_on_one_screen(tmp_path, seen, repeats):
    words = command(SMALL, "demo", "--points", "30", "--eiger-model", "500K")
    env = {**os.environ, "SFDAQ_LOG": str(tmp_path / "log"), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, **pipes, text=True, cwd=tmp_path, env=env) as process:
        said, ended, pressing = [], threading.Event(), None
        for line in process.stdout:
            said.append(line)
            if line.startswith(seen):
                pressing = threading.Thread(target=press, args=(process, ended, repeats))
                pressing.start()
        ended.set()
        pressing.join()
        assert process.wait(60) == 130, said
    assert len(said) <= SCREEN and not any("Traceback" in line for line in said), said

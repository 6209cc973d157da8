"""Every command says on one screen what failed; the traceback is in the log. Ctrl-C ends it in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.timeout(170)

SCREEN = 12

HOOK = """
from sfdaq_ophyd.sim import Facility
enter = Facility.__enter__
def entered(self):
    facility = enter(self)
    {fault}
    return facility
Facility.__enter__ = entered
"""

REPLACED = """
import {module} as module
def fail(*args, **kwargs):
    {fault}
module.{name} = fail
"""


def command(injected, *words):
    """The command line of ``sfdaq`` in which `injected` was executed before."""
    code = f"import sys\n{injected}\nfrom sfdaq_ophyd.cli import main\nmain()"
    return [sys.executable, "-c", code, *map(str, words)]


@pytest.fixture
def sfdaq(tmp_path):
    log = tmp_path / "sfdaq.log"

    def run(injected, *words):
        done = subprocess.run(
            command(injected, *words),
            capture_output=True,
            text=True,
            timeout=160,
            cwd=tmp_path,
            env={**os.environ, "SFDAQ_LOG": str(log), "HOME": str(tmp_path)},
        )
        done.screen = (done.stdout + done.stderr).splitlines()
        done.log = log.read_text() if log.exists() else ""
        return done

    return run


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def raised(module, name, fault):
    return REPLACED.format(module=module, name=name, fault=fault)


ALL_WELL = raised("sfdaq_ophyd.session.checks", "run_checks", "raise KeyError('no such finding')")
STARVED = (
    "from sfdaq_ophyd.errors import ServiceTimeout\n"
    "from sfdaq_ophyd.sim import Facility\n"
    "def enter(self):\n"
    "    raise ServiceTimeout('start of the simulated jungfrau', 60, 'importing', 'Give it longer')\n"
    "Facility.__enter__ = enter\n"
)
CONFIG = "directory: .\ndevices:\n  eiger: {class: Eiger, url: http://127.0.0.1:9}\n"


@pytest.mark.parametrize(
    ("injected", "words", "told"),
    [
        (
            STARVED,
            ["demo"],
            [
                "sfdaq demo failed while starting the simulated facility and the catalog:",
                "  start of the simulated jungfrau: not done after 60 s; last state importing.",
                "  What to do: Give it longer",
            ],
        ),
        (
            "import sfdaq_ophyd.catalog as c\nc.embedded_catalog = lambda *a, **k: {}['x']",
            ["demo"],
            ["KeyError: 'x' (", "What to do: This was not foreseen"],
        ),
        (STARVED, ["sim"], ["sfdaq sim failed:", "not done after 60 s", "What to do: Give it longer"]),
        (STARVED, ["watch", "--config", "sim"], ["sfdaq watch failed:", "What to do: Give it longer"]),
        (
            raised("sfdaq_ophyd.web.sources", "watch_of", "1 / 0"),
            ["watch", "--config", "sfdaq.yaml"],
            ["sfdaq watch failed:", "ZeroDivisionError: division by zero ("],
        ),
        (ALL_WELL, ["doctor", "--config", "sfdaq.yaml"], ["sfdaq doctor failed:", "'no such finding'"]),
        (
            raised("sfdaq_ophyd.cli.convert", "plan", "raise OSError(5, 'Input/output error', '/raw')"),
            ["convert", "raw", "out"],
            ["sfdaq convert failed:", "Input/output error: '/raw' ("],
        ),
    ],
)
def test_command_when_it_fails_then_one_screen_and_the_traceback_in_the_log(
    sfdaq, tmp_path, injected, words, told
):
    (tmp_path / "sfdaq.yaml").write_text(CONFIG)
    done = sfdaq(injected, *words)
    assert done.returncode == 1
    assert len(done.screen) <= SCREEN and "Traceback (most" not in done.stdout + done.stderr, done.screen
    for text in told:
        assert any(text in line for line in done.screen), (text, done.screen)
    assert done.screen[-1] == f"  Traceback: {tmp_path / 'sfdaq.log'}"
    assert "Traceback (most recent call last)" in done.log


@pytest.mark.parametrize("name", ["sim", "watch"])
def test_server_when_its_port_is_taken_then_one_screen_with_the_address(sfdaq, tmp_path, taken_port, name):
    (tmp_path / "sfdaq.yaml").write_text(CONFIG)
    options = {"sim": ["--only", "eiger", "--port-base"], "watch": ["--port"]}
    done = sfdaq("", name, *options[name], taken_port)
    assert done.returncode == 1 and len(done.screen) <= SCREEN, done.screen
    assert f"sfdaq {name} failed:" in done.screen
    assert any(str(taken_port) in line and "in use" in line for line in done.screen), done.screen


def test_demo_when_a_detector_fails_then_the_device_and_its_last_words(sfdaq):
    fault = HOOK.format(fault="facility.eiger.fail_next('drop', count=9)")
    done = sfdaq(fault, "demo", "--points", "2", "--eiger-model", "500K")
    assert done.returncode == 1 and len(done.screen) <= SCREEN, done.screen
    assert any("sfdaq demo failed while scanning motor with" in line for line in done.screen), done.screen
    assert any(line.startswith("  eiger: 0 of 1 frames came") for line in done.screen), done.screen
    assert any(line.startswith("  What to do: ") for line in done.screen), done.screen
    assert "FailedStatus" in done.log


def test_convert_when_every_file_is_broken_then_some_are_named_and_all_are_in_the_log(sfdaq, tmp_path):
    fault = (
        "from sfdaq_ophyd.files.convert import Converted\n"
        "import sfdaq_ophyd.cli.convert as convert\n"
        "convert.plan = lambda *args, **kwargs: []\n"
        "convert.run = lambda *args, **kwargs: (\n"
        "    Converted(f'raw/{i}.h5', '', 0, 'failed', 'damaged') for i in range(40)\n)\n"
    )
    done = sfdaq(fault, "convert", "raw", "out")
    assert done.returncode == 1 and len(done.screen) <= SCREEN, done.screen
    assert done.screen[0] == "sfdaq: raw/0.h5: damaged"
    assert done.screen[-1] == f"sfdaq: 40 of 40 files failed; all are in {tmp_path / 'sfdaq.log'}"
    assert all(f"raw/{i}.h5: damaged" in done.log for i in range(40))


def press(process, ended, repeats):
    """Press Ctrl-C; again where the RunEngine may not hear it: it takes none in its first 0.1 s."""
    process.send_signal(signal.SIGINT)
    while repeats and not ended.wait(2):
        process.send_signal(signal.SIGINT)


@pytest.mark.parametrize(("seen", "repeats"), [("Starting the simulated", False), ("Scanning motor", True)])
def test_demo_when_ctrl_c_then_it_ends_in_order_on_one_screen(tmp_path, seen, repeats):
    words = command("", "demo", "--points", "30", "--eiger-model", "500K")
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

"""``sfdaq watch`` as a user starts it."""

import os
import signal
import subprocess
import sys

import pytest
import requests
from typer.testing import CliRunner

from sfdaq_ophyd.cli.app import app
from sfdaq_ophyd.errors import ConfigError, RequestError

COMMAND = [sys.executable, "-c", "from sfdaq_ophyd.cli import main; main()", "watch"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "sfdaq.yaml"
    path.write_text(
        "pgroup: p12345\ndirectory: .\ndevices:\n  eiger: {class: Eiger, url: http://127.0.0.1:9}\n"
    )
    return path


@pytest.mark.parametrize(("host", "has_token"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_command_when_started_then_ready_and_ended_by_ctrl_c(config, host, has_token):
    words = [*COMMAND, "--config", str(config), "--port", "0", "--host", host]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        ready, url = process.stdout.readline().split()
        try:
            assert ready == "READY" and ("?token=" in url) == has_token
            url = url.replace("0.0.0.0", "127.0.0.1")
            assert requests.get(url, timeout=60).status_code == 200
            refused = requests.get(url.partition("?")[0], timeout=60).status_code == 401
            assert refused == has_token
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130, -signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_when_sim_is_ended_by_a_signal_then_its_folder_is_gone(tmp_path, number):
    words = [*COMMAND, "--config", "sim", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout.readline().startswith("READY ")
            assert list(tmp_path.iterdir())
        finally:
            process.send_signal(number)
        assert process.wait(60) in ((0,) if number is signal.SIGTERM else (0, 130))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "none.yaml"], "none.yaml"),
        (["--rate", "100"], "rate"),
        (["--token", "short"], "16 characters"),
    ],
)
def test_command_when_wrong_then_one_sentence_and_exit_code_1(config, options, words):
    done = CliRunner().invoke(app, ["watch", "--config", str(config), "--port", "0", *options])
    assert done.exit_code == 1 and isinstance(done.exception, RequestError | ConfigError)
    said = str(done.exception)
    assert words in said and "\n" not in said and "short" not in said

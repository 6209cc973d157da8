"""``sfdaq init`` and ``sfdaq session``: from nothing to a session of one's own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sfdaq_ophyd.cli.app import app
from sfdaq_ophyd.cli.init import ASKED
from sfdaq_ophyd.errors import ConfigError, RequestError
from sfdaq_ophyd.session import load_config
from sfdaq_ophyd.session.startup import PROFILE

MAIN = "from sfdaq_ophyd.cli import main; main()"
ADDRESSES = {
    "pgroup": "p98765",
    "pulse_id": "X:PULSE",
    "eiger": "http://dcu:80",
    "jungfrau": "JF02T01V02",
    "endpoints": "tcp://a:1",
    "std_daq": "http://daq:5000",
    "broker": "http://broker:10002",
}


def sfdaq(*words, answers=""):
    result = CliRunner().invoke(app, list(map(str, words)), input=answers)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_init_when_simulated_then_a_profile_that_a_session_opens(tmp_path):
    said = sfdaq("init", tmp_path / "mine")
    assert f"sfdaq session {tmp_path / 'mine'}" in said
    config = load_config(tmp_path / "mine" / "sfdaq.yaml", port=1024, prefix="S:")
    assert config.sim is not None and config.directory == tmp_path / "mine" / "data"
    ours = {path.name for path in (PROFILE / "startup").glob("*.*")}
    assert {path.name for path in (tmp_path / "mine" / "startup").iterdir()} == ours


def test_init_when_answered_then_every_address_is_in_the_file(tmp_path):
    sfdaq("init", tmp_path, "--beamline", "alvra", answers="\n".join(ADDRESSES[name] for name in ASKED))
    config = load_config(tmp_path / "sfdaq.yaml")
    devices = config.devices
    assert (config.beamline, config.pgroup) == ("alvra", "p98765")
    assert devices["pulse_id"].pv == "X:PULSE" and devices["eiger"].url == "http://dcu:80"
    assert devices["jf"].detector_name == "JF02T01V02" and devices["jf"].endpoints == ["tcp://a:1"]
    assert devices["writer"].url == "http://daq:5000" and devices["sfdaq"].url == "http://broker:10002"
    assert list(devices["sfdaq"].detectors) == ["JF02T01V02"]
    assert set(devices) == {"pulse_id", "eiger", "jf", "writer", "sfdaq"}


@pytest.mark.parametrize("name", [None, *ASKED])
def test_init_when_an_address_is_left_out_then_the_rest_is_valid_and_it_is_a_comment(tmp_path, name):
    options = [f"--{key.replace('_', '-')}={value}" for key, value in ADDRESSES.items() if key != name]
    sfdaq("init", tmp_path, "--beamline", "alvra", *(options if name else ["--eiger", "http://dcu"]))
    config = load_config(tmp_path / "sfdaq.yaml")
    assert len(config.devices) == {None: 1, "pgroup": 5}.get(name, 4)
    assert "\n# suspenders:" in (tmp_path / "sfdaq.yaml").read_text()


def test_init_when_nothing_is_answered_then_a_valid_file_without_devices(tmp_path):
    sfdaq("init", tmp_path, "--beamline", "alvra")
    assert load_config(tmp_path / "sfdaq.yaml").devices == {}


def test_init_when_an_answer_is_wrong_then_line_and_key_and_nothing_written(tmp_path):
    with pytest.raises(ConfigError, match=r"^sfdaq.yaml:\d+: devices.eiger.url: String should match"):
        sfdaq("init", tmp_path / "mine", "--beamline", "alvra", "--eiger", "dcu")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("there", ["sfdaq.yaml", "startup"])
def test_init_when_something_is_there_then_left_as_it_is(tmp_path, there):
    (tmp_path / there).mkdir()
    with pytest.raises(RequestError, match=f"a folder without {there}"):
        sfdaq("init", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_init_when_addresses_have_no_beamline_then_refused(tmp_path):
    with pytest.raises(RequestError, match="--beamline"):
        sfdaq("init", tmp_path, "--eiger", "http://dcu")


def test_session_when_there_is_no_profile_then_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="Make one: sfdaq init"):
        sfdaq("session", tmp_path)


def test_session_when_opened_then_the_devices_are_there_by_name(tmp_path):
    sfdaq("init", tmp_path / "mine", "--beamline", "alvra", "--eiger", "http://192.0.2.1")
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "session", "mine", "-c", "print(eiger.name, RE)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path)},
    )
    assert "1 of 1 devices" in done.stdout and "eiger <bluesky" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0

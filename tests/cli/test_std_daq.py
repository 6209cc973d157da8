"""``sfdaq std-daq`` with a standard DAQ that is controlled by websocket."""

from __future__ import annotations

import json
import sys
import threading

import h5py
import pytest

from sfdaq_ophyd.cli import main
from sfdaq_ophyd.cli.std_daq import SocketCalls, _write
from sfdaq_ophyd.clients import StdDaqClient, StdDaqWriterSocket
from sfdaq_ophyd.errors import ServiceUnreachable

from ..std_daq import simulated_daq, simulated_websocket_daq

THERE_ARE = "status, config, set-config, write-async, write-sync and stop"


@pytest.fixture(scope="module")
def daq():
    with simulated_websocket_daq() as daq:
        yield daq


@pytest.fixture
def sfdaq(daq, monkeypatch, capsys):
    """Run ``sfdaq std-daq ...``; return exit code, what was said, as JSON if it is, and standard error."""
    monkeypatch.setenv("STD_DAQ_API_URL", daq.ws_url)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sfdaq", "std-daq", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return end.value.code or 0, json.loads(captured.out or "null"), captured.err

    return run


def test_write_sync_when_it_ends_then_the_files_are_there_and_the_count_is_said(sfdaq, tmp_path):
    code, said, _ = sfdaq("write-sync", tmp_path / "x.h5", 7)
    assert (code, said["n_images"], said["count"]) == (0, 7, 7)
    assert said["status"] in ("file_saved", "idle")
    n = 0
    for k in range(2):
        with h5py.File(tmp_path / f"x_{k}.h5") as file:
            n += len(file["gf-teststand/data"])
    assert n == 7


def test_write_async_when_it_began_then_it_goes_on_until_a_stop(sfdaq, tmp_path):
    code, said, _ = sfdaq("write-async", tmp_path / "x.h5", 100_000)
    assert code == 0 and said["status"] in ("waiting_for_first_image", "recording")
    code, said, _ = sfdaq("status")
    assert code == 0 and said["status"] in ("waiting_for_first_image", "recording")
    code, _, error = sfdaq("write-async", tmp_path / "y.h5", 1)
    assert code == 1 and "somebody else is writing: " in error
    code, said, _ = sfdaq("stop")
    assert code == 0 and said["status"] in ("file_saved", "idle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x_0.h5", "x_1.h5", "x_Meta.h5"]


def test_write_sync_when_interrupted_then_the_writer_is_stopped(daq, tmp_path):
    def pressed(count):
        if count > 2:
            raise KeyboardInterrupt

    client = StdDaqWriterSocket(daq.ws_url, daq.url)
    request = {"output_file": str(tmp_path / "x.h5"), "n_images": 100_000}
    try:
        with pytest.raises(KeyboardInterrupt):
            SocketCalls(client).start_writer_sync(request, pressed)
        assert client.status().is_idle
    finally:
        client.close()


def test_write_sync_when_interrupted_while_the_start_is_sent_then_the_writer_is_stopped(
    daq, tmp_path, monkeypatch
):
    client = StdDaqWriterSocket(daq.ws_url, daq.url)
    send, commands = client.send, []

    def pressed(command):
        commands.append(command)
        number = send(command)
        if len(commands) == 1:
            pushes = client.connect()
            with pytest.raises(SystemExit):
                while True:
                    if any(not status.is_idle for status in pushes.since(number)[0]):
                        raise SystemExit
                    client.news.wait(0.1)
            raise KeyboardInterrupt
        return number

    monkeypatch.setattr(client, "send", pressed)
    try:
        with pytest.raises(KeyboardInterrupt):
            SocketCalls(client).start_writer_sync(
                {"output_file": str(tmp_path / "x.h5"), "n_images": 100_000}
            )
        assert client.status().is_idle and len(commands) > 1
    finally:
        client.close()


class Pressed:
    """A client of REST: Ctrl-C is pressed at the first look at the status after a start was sent."""

    def __init__(self, client, failing=()):
        self.client, self.failing, self.sent = client, list(failing), threading.Event()
        self.looks = self.stops = 0

    def start_writer_sync(self, request):
        self.sent.set()
        return self.client.start_writer_sync(request)

    def status(self):
        self.looks += 1
        if self.looks == 1:
            assert self.sent.wait(60)
            raise KeyboardInterrupt
        if self.failing:
            raise self.failing.pop()
        return self.client.status()

    def stop(self):
        self.stops += 1
        return self.client.stop()


@pytest.mark.parametrize("dialect", ["flask", "fastapi"])
@pytest.mark.parametrize("seconds", [0.2, 0.8])
def test_write_sync_when_interrupted_before_rest_shows_it_then_it_is_stopped_once_it_does(
    tmp_path, wait_for, monkeypatch, dialect, seconds
):
    """The file is slow: it is WRITING in the end, or the service gives up and is UNKNOWN."""
    with simulated_daq(dialect=dialect) as daq:
        client = StdDaqClient(daq.url)
        wait_for(lambda: daq.service.settled, "the writer process")
        client.stop_writer()
        daq.fail_next("slow_creation", seconds=seconds)
        request = {"output_file": str(tmp_path / "x.h5"), "n_images": 5_000}
        pressed, send = Pressed(client), daq.service.writer.send

        def late(command):
            if command["do"] == "start":
                wait_for(lambda: pressed.looks > 2, "looks at the status before")
            send(command)

        monkeypatch.setattr(daq.service.writer, "send", late)
        with pytest.raises(KeyboardInterrupt):
            _write(pressed, request, lambda count: None)
        assert pressed.looks > 2 and pressed.stops == 1
        wait_for(lambda: client.status().state != "WRITING", "an end")
        client.close()


def test_write_sync_when_interrupted_and_the_status_fails_then_said_that_it_may_be_recording(
    tmp_path, capsys, wait_for
):
    with simulated_daq() as daq:
        client = StdDaqClient(daq.url)
        wait_for(lambda: daq.service.settled, "the writer process")
        client.stop_writer()
        lost = ServiceUnreachable("GET /writer/status", url=daq.url, reason="no network")
        with pytest.raises(KeyboardInterrupt):
            request = {"output_file": str(tmp_path / "x.h5"), "n_images": 5_000}
            _write(Pressed(client, [lost]), request, lambda count: None)
        assert "(no network). The DAQ may be recording: sfdaq std-daq stop" in capsys.readouterr().err
        client.close()


@pytest.mark.parametrize("there", ["x_0.h5", "x_1.h5", "x_Meta.h5"])
def test_write_when_a_file_is_there_then_nothing_is_sent_and_it_stays(sfdaq, tmp_path, there):
    (tmp_path / there).write_text("dear")
    code, _, error = sfdaq("write-sync", tmp_path / "x.h5", 3)
    assert code == 1 and f"no {there} there: it would be overwritten" in error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["dear"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("x.h5", 5), "an absolute path"),
        (("/tmp/x.h5", 0), "n_images=0"),
        (("/tmp/x.h5", 5, "--run-id", 7), "knows no run id"),
    ],
)
def test_write_when_an_argument_is_wrong_then_it_is_named_and_nothing_is_sent(sfdaq, daq, arguments, said):
    code, _, error = sfdaq("write-async", *arguments)
    assert code == 1 and said in error
    assert daq.alive()["driver"]


def test_write_when_the_folder_is_missing_then_what_the_daq_said(sfdaq, daq, tmp_path):
    code, _, error = sfdaq("write-async", tmp_path / "none" / "x.h5", 5)
    assert code == 1 and "error" in error, error
    daq.restart_writer()


def test_write_when_a_writer_is_dead_then_it_is_said_that_it_may_be_carried_out(
    sfdaq, daq, tmp_path, monkeypatch
):
    monkeypatch.setattr("sfdaq_ophyd.cli.std_daq.CREATION_LIMIT", 0.5)
    daq.fail_next("writer_dies", writer=1)
    code, _, error = sfdaq("write-async", tmp_path / "x.h5", 2)
    daq.restart_writer()
    assert code == 1 and "when it is back, it carries this start out" in error
    sfdaq("stop")


def test_config_when_it_is_at_another_port_then_read_and_changed_whole(sfdaq, daq, tmp_path):
    code, config, _ = sfdaq("config", "--config-url", daq.url, "--user", "me")
    assert code == 0 and config == daq.config
    (tmp_path / "c.json").write_text(json.dumps({"bit_depth": 32, "n_modules": config["n_modules"]}))
    code, said, error = sfdaq("set-config", tmp_path / "c.json", "--config-url", daq.url, "--restart-time", 1)
    assert code == 0, error
    assert said == daq.config == {**config, "bit_depth": 32}


def test_config_when_its_address_is_given_then_keys_of_this_generation_alone_are_known(sfdaq, daq, tmp_path):
    stored = {"number_of_writers": daq.config["number_of_writers"]}
    (tmp_path / "c.json").write_text(json.dumps(stored))
    code, said, error = sfdaq("set-config", tmp_path / "c.json", "-b", daq.url)
    assert code == 0 and said == daq.config, error


def test_config_when_its_file_is_nested_too_deep_then_said_and_nothing_is_sent(sfdaq, tmp_path):
    (tmp_path / "c.json").write_text("[" * 100_000)
    code, _, error = sfdaq("set-config", tmp_path / "c.json")
    assert code == 1 and "a readable JSON file" in error and len(error.splitlines()) < 6


@pytest.mark.parametrize("command", ["stats", "logs", "deploy-status"])
def test_call_when_this_generation_has_none_then_said_by_name_with_those_it_has(sfdaq, daq, command):
    for address in (daq.ws_url, daq.url):
        code, said, error = sfdaq(command, "-b", address)
        assert (code, said) == (1, None)
        assert f"sfdaq: {command}=" in error and f"has only {THERE_ARE}" in error


def test_address_when_it_is_that_of_rest_then_asked_as_ever(sfdaq):
    with simulated_daq() as rest:
        code, said, _ = sfdaq("stop", "-b", rest.url)
        assert (code, said["state"]) == (0, "READY")
        assert sfdaq("stats", "-b", rest.url)[0] == 0

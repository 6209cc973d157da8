"""The published client and its command line tools drive the simulator through all they have."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys

import pytest
from std_daq_client import StdDaqClient
from std_daq_client import cli as published_tools

from sfdaq_ophyd import clients
from sfdaq_ophyd.cli import main


@pytest.fixture(params=[StdDaqClient, clients.StdDaqClient], ids=["published", "ours"])
def client(request, daq):
    return request.param(url_base=daq.url)


def test_methods_when_called_then_both_clients_return_the_same_dictionaries(client, daq, tmp_path, wait_for):
    client.stop_writer()
    request = {"output_file": str(tmp_path / "a.h5"), "n_images": 5, "run_id": 11}
    started = client.start_writer_async(request)
    assert started["state"] == "WRITING" and started["acquisition"]["info"]["run_id"] == 11
    assert request == {"output_file": str(tmp_path / "a.h5"), "n_images": 5, "run_id": 11}
    wait_for(lambda: client.get_status()["state"] == "READY", "end")
    finished = client.start_writer_sync({**request, "n_images": "3", "run_id": 12})
    assert finished["acquisition"]["stats"]["n_write_completed"] == 3

    def newest_run():
        logs = client.get_logs(2)
        newest = list(logs.values())[0] if isinstance(logs, dict) else logs[0]
        return newest["info"]["run_id"]

    wait_for(lambda: newest_run() == 12, "log entry")
    wait_for(client.get_stats, "stats")
    assert set(client.get_deployment_status()) == {"config_id", "message", "servers", "stats", "status"}
    assert client.get_config() == daq.service.config()[0]


def test_set_config_tools_when_called_then_both_store_it(daq, tmp_path, wait_for, monkeypatch):
    config = {**daq.service.config()[0], "module_positions": {}, "submodule_info": {}}
    (tmp_path / "c.json").write_text(json.dumps(config))
    n_starts = daq.service.writer.n_starts
    monkeypatch.setattr(sys, "argv", ["std_cli_set_config", str(tmp_path / "c.json"), "-b", daq.url])
    published_tools.set_config()
    wait_for(lambda: daq.service.writer.n_starts > n_starts, "restart")
    wait_for(lambda: daq.service.settled, "end of the restart")
    words = ["sfdaq", "std-daq", "set-config", str(tmp_path / "c.json"), "--restart-time", "1.5"]
    monkeypatch.setattr(sys, "argv", [*words, "-b", daq.url])
    with contextlib.suppress(SystemExit):
        main()
    wait_for(lambda: daq.service.writer.n_starts > n_starts + 1, "second restart")
    wait_for(lambda: daq.service.settled, "end of the restart")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "-b", "http://127.0.0.1:9"], "not reachable"),
        (["logs", "-n", "0"], "n_last_logs=0"),
        (["write-async", "rel.h5", "5"], "absolute path"),
        (["write-sync", "/tmp/x.h5", "0"], "n_images=0"),
        (["set-config", "missing.json"], "readable JSON file"),
    ],
)
def test_sfdaq_when_something_is_wrong_then_a_few_lines_and_exit_code_1(
    arguments, words, monkeypatch, capsys
):
    monkeypatch.setenv("STD_DAQ_API_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(sys, "argv", ["sfdaq", "std-daq", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    out, err = capsys.readouterr()
    assert done.value.code == 1 and out == ""
    assert words in err and err.count("\n") <= 12


def test_methods_when_compared_then_ours_take_the_published_arguments_first_and_need_no_others():
    names = [name for name in vars(StdDaqClient) if not name.startswith("_")]
    assert len(names) == 9
    for name in names:
        theirs, ours = (
            list(inspect.signature(getattr(kind, name)).parameters.values())
            for kind in (StdDaqClient, clients.StdDaqClient)
        )
        assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs], name
        assert all(p.default is not p.empty for p in ours[len(theirs) :]), name
    assert clients.StdDaqClient().url_base == StdDaqClient().url_base
    assert clients.StdDaqClient("http://x:1").url_base == clients.StdDaqClient(url_base="http://x:1").url_base

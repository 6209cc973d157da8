"""Line by line, what the published client and its tools did, done with them and with ours."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
from pathlib import Path

import pytest
import std_daq_client
from std_daq_client import cli as published_tools

from sfdaq_ophyd import clients
from sfdaq_ophyd.cli import main

from .calls import TOOLS, Calls, as_exchange, is_refused_by_us, read_calls, same_exception
from .recording import masked

OWN = Path(__file__).parents[2] / "data" / "std_daq"
NOTHING = "http://127.0.0.1:1"


def pytest_generate_tests(metafunc):
    for name in ("client_calls", "cli_calls"):
        if name in metafunc.fixturenames:
            folder = metafunc.config.getoption("--recordings") or OWN
            paths = sorted(folder.rglob(f"{name}.jsonl"))
            metafunc.parametrize(name, paths, ids=[path.parent.name for path in paths])


def url_for(note: str, url: str) -> str:
    """Return the address a row was made with."""
    if "no scheme" in note:
        return url.removeprefix("http://")
    if "trailing slash" in note:
        return url + "/"
    if "wrong prefix" in note:
        return url + "/wrong"
    return NOTHING if "nothing listens" in note else url


@pytest.mark.parametrize("ours", [False, True], ids=["published", "ours"])
def test_client_when_recorded_calls_are_made_then_they_return_and_raise_the_same(
    client_calls, ours, wait_for
):
    settings, rows = read_calls(client_calls)
    exchanges = [
        as_exchange(row["call"], row["args"], row.get("returned"), (row.get("raised") or {}).get("str"), i)
        for i, row in enumerate(rows)
    ]
    kind = clients.StdDaqClient if ours else std_daq_client.StdDaqClient
    problems = []
    with Calls(settings, exchanges, wait_for) as calls:
        for i, row in enumerate(rows):
            note, name, args = str(row.get("note")), row["call"], row["args"]
            client = kind(url_for(note, calls.server.url))
            more = {"wait": False} if ours and name == "set_config" else {}  # no server would report
            how, what = calls.make(i, lambda: getattr(client, name)(*args, **more))  # noqa: B023
            if problem := client_differs(row, note, how, what, ours):
                problems.append(f"{name}{tuple(args)} ({note}): {problem}")
    assert not problems, "\n".join(problems)


def client_differs(row: dict, note: str, how: str, what, ours: bool) -> str | None:
    raised = row.get("raised")
    if raised is None:
        if ours and how == "raised" and is_refused_by_us(row["call"], row["args"]):
            return None  # a number the service would have cut short
        if how == "raised" or masked(what) != masked(row["returned"]):
            return f"{how} {what!r}, recorded {masked(row['returned'])}"
        return None
    if how == "returned":
        better = "no scheme" in note or "trailing slash" in note
        merged = row["call"] == "set_config" and not is_refused_by_us(row["call"], row["args"])
        return None if ours and (better or merged) else f"returned {what!r}, recorded {raised}"
    if not same_exception(raised, what):
        return f"raised {type(what)}, recorded {raised['type']}"
    if not ours and masked(plain(str(what))) != masked(plain(raised["str"])):
        return f"said {what}, recorded {raised['str']}"
    return None


def plain(text: str) -> str:
    """Leave out the words of the HTTP library and addresses in memory."""
    return "<connection>" if "HTTPConnection" in text or "urllib3" in text or "adapters" in text else text


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files the recorded command lines name."""
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{bit_depth: 16}")
    Path("p.json").write_text(json.dumps({"bit_depth": 16, "writer_user_id": 0}))
    return tmp_path


@pytest.mark.parametrize("ours", [False, True], ids=["published", "ours"])
def test_tools_when_recorded_command_lines_are_run_then_they_print_the_same(
    cli_calls, ours, folder, wait_for, monkeypatch
):
    settings, rows = read_calls(cli_calls)
    exchanges = [exchange_of(row, i) for i, row in enumerate(rows)]
    problems = []
    with Calls(settings, exchanges, wait_for) as calls:
        config = calls.server.settings.first_config | stored_from("c.json", rows)
        config |= {"module_positions": {}, "submodule_info": {}}
        Path("c.json").write_text(json.dumps(config))
        calls.reset()
        for i, row in enumerate(rows):
            if "default port" in str(row.get("note")) and is_taken(5000):
                continue
            monkeypatch.delenv("STD_DAQ_API_URL", raising=False)
            for key, value in row["env"].items():
                monkeypatch.setenv(key, at(value, calls.server.url))
            args = [at(word, calls.server.url) for word in row["args"]]
            _, result = calls.make(i, lambda: run(row["tool"], args, ours, monkeypatch))  # noqa: B023
            if problem := tool_differs(row, *result, ours):
                problems.append(f"{row['tool']} {row['args']}: {problem}")
    assert not problems, "\n".join(problems)


def stored_from(file: str, rows: list[dict]) -> dict:
    """Return the configuration that was stored out of a file, as the recording shows it."""
    printed = (row["stdout"] for row in rows if row["args"][:1] == [file] and row["exit_code"] == 0)
    return json.loads(next(printed, "{}"))


def exchange_of(row: dict, i: int) -> dict:
    call = TOOLS[row["tool"]][0]
    words = [word for word in row["args"] if word.startswith("/")]
    numbers = [int(word) for word in row["args"] if word.isdecimal()]
    args = [{"output_file": words[0], "n_images": numbers[-1]}] if words and numbers else []
    silent = row["exit_code"] != 0 or not row["stdout"].startswith(("{", "[", "null"))
    said = row["stderr"].rpartition("...")[2].strip() or "nothing"
    if said.startswith("{"):  # the last line of a traceback: the status after "is running"
        said = "Cannot start new acquisition while previous one is running:\n " + said
    return as_exchange(call, args, None if silent else json.loads(row["stdout"]), said if silent else None, i)


def at(word: str, url: str) -> str:
    return word.replace("http://HOST:PORT", url).replace("http://HOST:", "http://127.0.0.1:")


def run(tool: str, args: list[str], ours: bool, monkeypatch) -> tuple[int, str, str]:
    """Run a tool in this process; exit code, standard output, standard error."""
    command = ["sfdaq", "std-daq", TOOLS[tool][1]] if ours else [tool]
    if ours and "-h" not in args and "--help" not in args and tool == "std_cli_set_config":
        command.append("--no-wait")  # no server would report
    monkeypatch.setattr(sys, "argv", command + args)
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main() if ours else getattr(published_tools, tool.removeprefix("std_cli_"))()
        except SystemExit as exc:
            code = exc.code or 0
        except Exception:
            code = 1
    return code, output.getvalue(), errors.getvalue()


def tool_differs(row: dict, code: int, stdout: str, stderr: str, ours: bool) -> str | None:
    better = ours and row["tool"] == "std_cli_set_config" and row["args"][:1] == ["p.json"]
    if code != row["exit_code"]:
        return None if better and code == 0 else f"exit code {code}, recorded {row['exit_code']}: {stderr}"
    if code == 0 and "--help" not in row["args"]:
        if in_order(stdout) != in_order(row["stdout"]):
            return f"printed {stdout}, recorded {row['stdout']}"
    if ours and code == 1 and (stdout or not 1 <= stderr.count("\n") <= 12):
        return f"not a few lines on standard error: {stderr!r}"
    return None


def in_order(text: str) -> tuple[str, int]:
    """Return printed JSON without what is volatile, its keys in order, and the number of lines."""
    return json.dumps(masked(json.loads(text))), text.count("\n")


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

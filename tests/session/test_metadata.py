"""RE.md survives a restart, a crash, and another session."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from sfdaq_ophyd.errors import ConfigError, RequestError, ServiceUnreachable
from sfdaq_ophyd.session import FileStore, PersistentMetadata, RedisStore, next_scan_id


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory, wait_for):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [shutil.which("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path_factory.mktemp("redis"))
    wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "redis-server")
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait(10)


@pytest.fixture(params=["file", "redis"])
def open_md(request, tmp_path):
    if request.param == "file":
        return lambda: PersistentMetadata(FileStore(tmp_path / "deep" / "md.json"))
    url = request.getfixturevalue("redis_url")
    return lambda: PersistentMetadata(RedisStore(url, tmp_path.name))


def test_metadata_when_opened_again_then_as_it_was(open_md):
    md = open_md()
    md["sample"], md["numbers"], md["gone"] = "lysozyme", np.arange(3), 1
    md["energy"] = np.float64(12.4)
    del md["gone"]
    assert dict(open_md()) == {"sample": "lysozyme", "numbers": [0, 1, 2], "energy": 12.4}


def test_run_engine_when_started_again_then_scan_id_continues(open_md):
    import bluesky.plans as bp
    from bluesky import RunEngine
    from ophyd.sim import det

    ids = []
    for _ in range(2):
        md = open_md()
        engine = RunEngine(md, scan_id_source=next_scan_id)
        engine.subscribe(lambda name, doc: ids.append(doc["scan_id"]), "start")
        engine(bp.count([det]))
        engine(bp.count([det]))
    assert ids == [1, 2, 3, 4]


def test_scan_id_when_two_sessions_take_turns_then_none_twice(open_md):
    sessions = [open_md() for _ in range(3)]
    taken = []

    def work(md):
        for _ in range(20):
            number = next_scan_id(md)
            md["scan_id"] = number  # as the RunEngine does
            taken.append(number)

    threads = [threading.Thread(target=work, args=(md,)) for md in sessions]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    assert sorted(taken) == list(range(1, 61))


@pytest.mark.parametrize(("key", "value"), [("x", object()), ("x", float("nan")), (3, 1)])
def test_metadata_when_json_cannot_hold_it_then_refused_and_nothing_written(tmp_path, key, value):
    md = PersistentMetadata(FileStore(tmp_path / "md.json"))
    md["kept"] = 1
    with pytest.raises(RequestError):
        md[key] = value
    assert json.loads((tmp_path / "md.json").read_text()) == {"kept": 1}


@pytest.mark.parametrize("damage", ["", "{", "[1]"])
def test_metadata_when_the_file_is_damaged_then_said_and_not_started_anew(tmp_path, damage):
    (tmp_path / "md.json").write_text(damage)
    with pytest.raises(ConfigError, match="md.json"):
        PersistentMetadata(FileStore(tmp_path / "md.json"))["x"]
    assert (tmp_path / "md.json").read_text() == damage


def test_metadata_when_redis_is_gone_then_unreachable():
    with pytest.raises(ServiceUnreachable):
        PersistentMetadata(RedisStore("redis://127.0.0.1:1/0", "x"))["x"]


def test_file_when_the_writer_is_killed_at_any_moment_then_whole(tmp_path):
    code = (
        "import sys; from sfdaq_ophyd.session.metadata import FileStore, PersistentMetadata\n"
        "md = PersistentMetadata(FileStore(sys.argv[1]))\n"
        "for i in range(10**9):\n    md['i'] = [i] * 2000\n    print(i, flush=True)\n"
    )
    path = tmp_path / "md.json"
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(5):
            child.stdout.readline()
        child.kill()
        child.wait(10)
        child.stdout.close()
        numbers = PersistentMetadata(FileStore(path))["i"]
        assert len(set(numbers)) == 1 and len(numbers) == 2000

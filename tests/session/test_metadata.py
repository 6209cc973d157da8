"""RE.md survives a restart, a crash, and another session."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from sfdaq_ophyd.errors import ConfigError, RequestError, ServiceUnreachable
from sfdaq_ophyd.session import FileStore, PersistentMetadata, RedisStore, next_scan_id
from sfdaq_ophyd.session.checks import probe_redis

from ..ports import free_ports, listens


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory, wait_for):
    (port,) = free_ports(1)
    command = [shutil.which("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path_factory.mktemp("redis"))
    wait_for(lambda: listens(port), "redis-server")
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait(60)


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


DICTS = {
    "set": lambda md: md["d"].__setitem__("new", 1),
    "set deep": lambda md: md["d"]["in"]["x"].append(3),
    "set an array": lambda md: md["d"].update(array=np.arange(2)),
    "delete": lambda md: md["d"].__delitem__("a"),
    "update": lambda md: md["d"].update({"a": 5}, more=6),
    "update from an iterator": lambda md: md["d"].update(pair for pair in [("a", 7)]),
    "pop": lambda md: md["d"].pop("a"),
    "popitem": lambda md: md["d"].popitem(),
    "setdefault, then in it": lambda md: md["d"].setdefault("new", {}).update(deep=1),
    "setdefault of all": lambda md: md.setdefault("other", {}).update(deep=1),
    "clear": lambda md: md["d"].clear(),
    "or": lambda md: md["d"].__ior__({"a": 8}),
    "or in place": lambda md: exec("md['d'] |= {'a': 9}", {"md": md}),
    "add in place": lambda md: exec("md['l'] += [9]", {"md": md}),
    "add deep": lambda md: exec("md['d']['in']['x'] += [9]", {"md": md}),
    "times": lambda md: exec("md['l'] *= 2", {"md": md}),
    "append": lambda md: md["l"].append({"deep": 1}),
    "extend": lambda md: md["l"].extend(iter([1, 2])),
    "insert": lambda md: md["l"].insert(0, 5),
    "item": lambda md: md["l"].__setitem__(0, 5),
    "slice": lambda md: md["l"].__setitem__(slice(0, 2), [7, 8, 9]),
    "delete slice": lambda md: md["l"].__delitem__(slice(0, 2)),
    "remove": lambda md: md["l"].remove(1),
    "pop of a list": lambda md: md["l"].pop(0),
    "reverse": lambda md: md["l"].reverse(),
    "sort": lambda md: md["l"].sort(key=lambda each: -each),
    "clear of a list": lambda md: md["l"].clear(),
    "in a list": lambda md: md["n"][1]["x"].update(y=2),
    "through values": lambda md: list(md.values())[0].update(seen=1),
    "through get": lambda md: md.get("d").update(seen=1),
    "true for one": lambda md: md["d"].update(a=True),
    "update of all": lambda md: md.update(d={"a": 1}, more=[1]),
    "pop of all": lambda md: md.pop("d"),
    "clear of all": lambda md: md.clear(),
}
"""Every way in which people change metadata (metadata-nested)."""


@pytest.mark.parametrize("change", DICTS.values(), ids=DICTS)
def test_metadata_nested_when_changed_in_any_way_then_stored_at_once_and_as_a_dict_would(open_md, change):
    md = open_md()
    content = {"d": {"a": 1, "in": {"x": [1, 2]}}, "l": [3, 1, 2], "n": [1, {"x": {}}]}
    md.clear()
    md.update(content)
    change(content)
    change(md)
    expected = json.loads(json.dumps(content, default=np.ndarray.tolist))
    assert json.dumps(dict(md)) == json.dumps(dict(open_md())) == json.dumps(expected)


def test_metadata_nested_when_changed_and_set_again_then_stored(open_md):
    md = open_md()
    md["sample"] = {"name": "a"}
    sample = md["sample"]
    sample["name"] = "b"
    md["sample"] = sample
    assert open_md()["sample"] == {"name": "b"}


def test_metadata_nested_when_two_hold_it_then_neither_loses_what_the_other_did(open_md):
    md, other = open_md(), open_md()
    md["sample"] = {}
    one, two, theirs = md["sample"], md["sample"], other["sample"]
    one["x"] = 1
    two["y"] = 2
    theirs["z"] = 3
    assert open_md()["sample"] == {"x": 1, "y": 2, "z": 3}
    del md["sample"]
    with pytest.raises(RequestError, match="still there"):
        one["x"] = 2
    assert "sample" not in open_md()


def test_metadata_nested_when_json_cannot_hold_it_then_refused_and_as_before(open_md):
    md = open_md()
    md["sample"] = {"x": [1]}
    sample = md["sample"]
    for change in (lambda: sample.update(y=object()), lambda: sample["x"].append(float("nan"))):
        with pytest.raises(RequestError, match="JSON can hold"):
            change()
    assert sample == md["sample"] == open_md()["sample"] == {"x": [1]}


def test_metadata_nested_when_copied_or_pickled_then_plain_and_apart(open_md):
    md = open_md()
    md["sample"] = {"x": [1, {}]}
    for copied in (
        copy.deepcopy(md["sample"]),
        pickle.loads(pickle.dumps(md["sample"])),
        copy.deepcopy(md)["sample"],
    ):
        assert type(copied) is dict and type(copied["x"]) is list and type(copied["x"][1]) is dict
        copied["x"].append(2)
    assert open_md()["sample"] == {"x": [1, {}]}


def test_metadata_when_another_session_changed_it_then_setting_it_back_is_stored(open_md):
    md, other = open_md(), open_md()
    md["sample"] = "a"
    other["sample"] = "b"
    md["sample"] = "a"
    assert open_md()["sample"] == "a"


def test_metadata_when_set_to_none_then_none(open_md):
    md = open_md()
    md["sample"] = "A"
    md["sample"] = None
    md.update(new=None)
    assert dict(md) == {"sample": None, "new": None} and md.setdefault("more") is None


def test_versions_when_a_run_engine_is_made_then_recorded(open_md):
    import bluesky
    from bluesky import RunEngine

    RunEngine(open_md())
    assert open_md()["versions"]["bluesky"] == bluesky.__version__


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
    [thread.join(120) for thread in threads]
    assert sorted(taken) == list(range(1, 61))


@pytest.mark.parametrize(("key", "value"), [("x", object()), ("x", float("nan")), (3, 1)])
def test_metadata_when_json_cannot_hold_it_then_refused_and_nothing_written(tmp_path, key, value):
    md = PersistentMetadata(FileStore(tmp_path / "md.json"))
    md["kept"] = 1
    with pytest.raises(RequestError):
        md[key] = value
    assert json.loads((tmp_path / "md.json").read_text()) == {"kept": 1}


def deep(n):
    return {"x": deep(n - 1)} if n else {}


@pytest.mark.parametrize("n", [98, 99, 500])
def test_metadata_when_nested_deeply_then_refused_or_read_back(open_md, n):
    md = open_md()
    md.clear()
    if n > 98:
        with pytest.raises(RequestError, match="nested deeper than"):
            md["d"] = deep(n)
    else:
        md["d"] = deep(n)
        assert open_md()["d"] == deep(n)
    assert dict(open_md()) == dict(md)


DAMAGED = [
    "{",
    "x",
    "[1]",
    "[" * 100_000,
    '{"a":' * 200 + "1" + "}" * 200,
    f'{{"a": {"9" * 5000}}}',
    "\udcff",
]


@pytest.mark.parametrize("damage", DAMAGED, ids=range(len(DAMAGED)))
def test_metadata_when_redis_holds_something_else_then_said_and_not_started_anew(redis_url, damage):
    import redis

    damage = damage.encode(errors="surrogateescape")
    with redis.Redis.from_url(redis_url) as client:
        client.set("damaged", damage)
        with pytest.raises(ConfigError, match=f"{redis_url}: damaged: not "):
            PersistentMetadata(RedisStore(redis_url, "damaged"))["x"]
        assert client.get("damaged") == damage


@pytest.mark.parametrize("stored", ["null", '"abc"', "Infinity", "NaN", "[]"])
def test_scan_id_when_what_is_stored_is_no_number_then_said_and_left(tmp_path, stored):
    path = tmp_path / "md.json"
    path.write_text(f'{{"scan_id": {stored}}}')
    md = PersistentMetadata(FileStore(path))
    with pytest.raises(ConfigError, match="metadata scan_id: .*, expected a whole number"):
        next_scan_id(md)
    assert path.read_text() == f'{{"scan_id": {stored}}}'
    md["scan_id"] = 5
    assert next_scan_id(md) == 6


@pytest.mark.parametrize("use", [lambda url: RedisStore(url, "x"), probe_redis])
@pytest.mark.parametrize("url", ["redis://:s3/cret@host:6379/0", "http://me:s3cret@host", ":s3cret@host"])
def test_redis_when_the_address_is_none_then_said_without_its_password(use, url):
    with pytest.raises(RequestError, match="expected an address such as redis://host:6379") as info:
        use(url)
    assert "s3" not in str(info.value) and info.value.__suppress_context__


@pytest.mark.parametrize("damage", ["", "{", "[1]", "[" * 100_000])
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
        child.wait(60)
        child.stdout.close()
        numbers = PersistentMetadata(FileStore(path))["i"]
        assert len(set(numbers)) == 1 and len(numbers) == 2000


def test_scan_id_when_set_back_or_restored_then_it_is_what_was_set(tmp_path):
    md = PersistentMetadata(FileStore(tmp_path / "md.json"))
    md["scan_id"] = 6
    md["scan_id"] = next_scan_id(md)  # as the RunEngine does
    md["scan_id"] = 1000
    md["scan_id"] = 7
    assert md["scan_id"] == 7
    md["scan_id"] = next_scan_id(md)
    saved = dict(md)
    md.clear()
    md.update(saved)
    assert md["scan_id"] == 8 and next_scan_id(md) == 9
    del md["scan_id"]
    md["scan_id"] = 9
    assert md["scan_id"] == 9

"""A Tiled server of the facility: the same journal, replay and ways to read as with one of our own."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from event_model import DocumentNames, schema_validators

from sfdaq_ophyd import setup
from sfdaq_ophyd.catalog import plugin, remote_catalog
from sfdaq_ophyd.catalog._documents import filled
from sfdaq_ophyd.catalog.journal import plain
from sfdaq_ophyd.errors import RequestError, ServiceUnreachable

from ..ports import free_ports
from ..tiled_server import API_KEY, TiledServer, stock_catalog
from .composed import DATASET, Composed, frames_of, image_key, scalar, simple_run, write_frames
from .test_odd_values import check_no_columns

POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Tables in SQLite, too: it has no lists and no NaN."""
    folder = tmp_path_factory.mktemp("server")
    with stock_catalog(folder, tables=f"sqlite:///{folder / 'tables.db'}") as server:
        yield server


@pytest.fixture(scope="module")
def remote(server, tmp_path_factory):
    documents = tmp_path_factory.mktemp("documents")
    with remote_catalog(server.uri, documents, api_key=server.api_key) as catalog:
        yield catalog


def odd_run(send, path):
    """A run of numbers, texts, arrays, missing values and frames."""
    write_frames(path, frames := frames_of(1, 4))
    run = Composed(send, sample={"name": "lysozyme"})
    keys = {
        "x": scalar("number"),
        "n": scalar("integer"),
        "good": scalar("boolean"),
        "text": scalar("string"),
    }
    keys |= {"wave": {"source": "test", "dtype": "array", "shape": [3]}, "image": image_key()}
    stream = run.stream("primary", keys)
    resource = run.frames("image", path)
    for i in range(4):
        wave, x = np.arange(3) + i, math.nan if i == 1 else i / 2
        stream.event(x=x, n=2**40 + i, good=i % 2 == 0, text=None if i == 2 else f"é{i}", wave=wave)
        stream.datum(resource, i, i + 1)
    run.stop()
    return run.uid, frames


def check_odd(run, frames):
    primary = run["primary"]
    np.testing.assert_array_equal(primary["x"].read(), [0, math.nan, 1, 1.5])
    assert primary["n"].read().tolist() == [2**40 + i for i in range(4)]
    assert primary["good"].read().astype(bool).tolist() == [True, False, True, False]
    texts = [str(text) for text in primary["text"].read()]
    assert texts == ["é0", "é1", "nan", "é3"]
    np.testing.assert_array_equal(primary["wave"].read(), [np.arange(3) + i for i in range(4)])
    np.testing.assert_array_equal(primary["image"].read(), frames)
    assert run.metadata["start"]["sample"] == {"name": "lysozyme"}


def as_json(documents):
    return json.loads(json.dumps([(name, dict(doc)) for name, doc in documents], default=plain))


def test_run_when_the_server_is_stock_then_everything_reads_back(remote, tmp_path):
    uid, frames = odd_run(remote, tmp_path / "frames.h5")
    check_odd(remote[uid], frames)
    assert remote[-1].metadata["start"]["uid"] == uid and uid in remote and remote.waiting == []
    assert remote[uid[:8]].metadata["stop"]["exit_status"] == "success"


def test_engine_when_set_up_then_its_runs_are_there_by_scan_id(remote):
    import bluesky.plans as bp
    from ophyd.sim import SynAxis

    engine = RunEngine(context_managers=[])
    assert setup(engine, remote)[-1].startswith("documents go to <RemoteCatalog")
    (uid,) = engine(bp.scan([], SynAxis(name="motor"), 0, 1, 3), scan_id=4711)
    assert remote[4711].metadata["start"]["uid"] == uid
    assert remote[uid]["primary"]["motor"].read().tolist() == [0, 0.5, 1]
    assert remote.databroker[-1].table()["motor"].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("client", ["run", "databroker"])
def test_documents_when_asked_for_then_those_that_went_in(remote, catalog, tmp_path, client):
    for each in (remote, catalog):
        emitted = []

        def send(name, doc, to=each, emitted=emitted):
            emitted.append((name, doc))
            to(name, doc)

        uid, _ = odd_run(send, tmp_path / f"{len(each)}.h5")
        run = each[uid] if client == "run" else (each.flush(), each.databroker[uid])[1]
        assert repr(as_json(run.documents())) == repr(as_json(emitted))  # by repr NaN equals NaN


def test_run_when_exported_as_jsonl_and_imported_elsewhere_then_the_same_run(catalog, remote, tmp_path):
    import suitcase.jsonl

    uid, frames = odd_run(catalog, tmp_path / "frames.h5")
    (path,) = suitcase.jsonl.export(catalog[uid].documents(), tmp_path)["all"]
    for line in path.read_text().splitlines():
        remote(*json.loads(line))
    check_odd(remote[uid], frames)
    assert repr(as_json(remote[uid].documents())) == repr(as_json(catalog[uid].documents()))


@pytest.mark.parametrize("fill", [False, True])
def test_run_when_exported_as_msgpack_and_imported_elsewhere_then_the_same_run(
    catalog, remote, tmp_path, fill
):
    """Filled, no file is needed there."""
    import msgpack
    import msgpack_numpy
    import suitcase.msgpack

    uid, frames = odd_run(catalog, tmp_path / "frames.h5")
    (path,) = suitcase.msgpack.export(catalog[uid].documents(fill=fill), tmp_path)["all"]
    with open(path, "rb") as file:
        found = list(msgpack.Unpacker(file, object_hook=msgpack_numpy.decode))
    for name, doc in found:
        remote(name, doc)
    names = {name for name, _ in found}
    assert ("stream_datum" in names) != fill
    if fill:
        (tmp_path / "frames.h5").unlink()
    check_odd(remote[uid], frames)
    assert remote[uid].metadata["start"] == catalog[uid].metadata["start"]


@pytest.mark.parametrize("events", [True, False])
def test_documents_when_filled_then_each_point_has_its_own_row(catalog, tmp_path, events):
    """Of two files; without events, they are in files alone."""
    write_frames(tmp_path / "1.h5", first := frames_of(1, 3))
    write_frames(tmp_path / "2.h5", second := frames_of(2, 2))
    run = Composed(catalog)
    stream = run.stream("primary", {"image": image_key(), **({"x": scalar("number")} if events else {})})
    for path, before, stop in (("1.h5", 0, 3), ("2.h5", 3, 2)):
        resource = run.frames("image", tmp_path / path)
        for i in range(stop):
            stream.datum(resource, i, i + 1, before + i + 1)
            if events:
                stream.event(x=i / 2)
    run.stop()
    catalog.flush()
    documents = list(catalog[run.uid].documents(fill=True))
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(as_json([(name, doc)])[0][1])
    points = [doc for name, doc in documents if name == "event"]
    assert [point["seq_num"] for point in points] == [1, 2, 3, 4, 5]
    images = [np.squeeze(point["data"]["image"]) for point in points]
    np.testing.assert_array_equal(images, [*first, *second])
    assert {name for name, _ in documents} == {"start", "descriptor", "event", "stop"}


def test_documents_when_filled_then_a_point_that_a_file_lacks_is_missing_and_a_repeated_one_the_last():
    documents = []
    run = Composed(lambda *document: documents.append(document))
    stream = run.stream("data", {"all": image_key(), "some": image_key()})
    for key, seq_nums in (("all", (1, 2, 3)), ("some", (1, 3, 3))):
        resource = run.frames(key, "/frames.h5")
        for row, seq_num in enumerate(seq_nums):
            stream.datum(resource, row, row + 1, seq_num)
    run.stop()
    rows = frames_of(1, 3)
    events = [
        doc for name, doc in filled(documents, {"data": {"all": rows, "some": rows}}) if name == "event"
    ]
    for event, row, other in zip(events, rows, (rows[0], None, rows[2]), strict=True):
        np.testing.assert_array_equal(event["data"]["all"], row)
        np.testing.assert_array_equal(event["data"].get("some"), other)
        assert event["timestamps"].keys() == event["data"].keys()


def test_run_when_exported_as_csv_then_its_rows(catalog, tmp_path):
    import suitcase.csv

    uid = simple_run(catalog, 3)
    (path,) = suitcase.csv.export(catalog[uid].documents(), tmp_path)["stream_data"]
    rows = list(csv.DictReader(Path(path).read_text().splitlines()))
    assert [(row["seq_num"], row["x"]) for row in rows] == [("1", "0.0"), ("2", "0.5"), ("3", "1.0")]


def test_documents_when_the_client_is_stock_then_the_server_has_them(catalog, tmp_path):
    from tiled.client import from_uri

    uid, _ = odd_run(catalog, tmp_path / "frames.h5")
    catalog.flush()
    client = from_uri(catalog.uri)
    assert repr(as_json(client[uid].documents())) == repr(as_json(catalog[uid].documents()))
    client.context.close()


def test_server_when_gone_and_back_then_replay_brings_the_run_in(server, tmp_path, monkeypatch):
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)
    with remote_catalog(server.uri, tmp_path / "documents", api_key=server.api_key) as catalog:
        server.stop()
        try:
            uid = simple_run(catalog)
            catalog.flush()
            assert catalog.waiting == [uid]
        finally:
            server.start()
        assert catalog.replay() == [uid] and catalog.waiting == []
        assert catalog[uid]["primary"]["x"].read().tolist() == [0, 0.5, 1]


def test_server_when_it_has_the_plugin_then_files_ahead_are_read_and_runs_are_exported(tmp_path):
    from tiled.client import from_uri

    (tmp_path / "data").mkdir()
    told = textwrap.dedent(plugin.__doc__.partition("::\n")[2].partition("\nThe embedded catalog")[0])
    told = told.replace("/sf/bernina/data", str(tmp_path))
    (tmp_path / "config.yml").write_text(f"{told}authentication:\n  single_user_api_key: {API_KEY}\n")
    server = TiledServer(tmp_path, "config", "config.yml")
    try:
        with remote_catalog(server.uri, tmp_path / "documents", api_key=server.api_key) as catalog:
            path = write_frames(tmp_path / "frames.h5", frames_of(1, 6))
            run = Composed(catalog)
            stream = run.stream("primary", {"image": image_key()})
            resource = run.frames("image", path)
            stream.event()
            stream.datum(resource, 0, 4)  # the file has two more
            catalog.flush()
            with h5py.File(path) as file:
                expected = file[DATASET][:4]
            client = from_uri(server.uri, api_key=server.api_key)
            np.testing.assert_array_equal(client[run.uid]["primary"]["image"].read(), expected)
            run.stop()
            catalog.flush()
            names = [name for name, _ in client[run.uid].documents()]
            assert names[0] == "start" and names[-1] == "stop" and "stream_datum" in names
            client.context.close()
    finally:
        server.stop()


@pytest.mark.skipif(not POSTGRESQL, reason="no PostgreSQL here: apt-get install postgresql")
def test_run_when_the_server_keeps_it_in_postgresql_then_everything_reads_back(tmp_path):
    binaries, folder = POSTGRESQL[-1].parent, Path(tempfile.mkdtemp())  # the user postgres must get there
    user = ["runuser", "-u", "postgres", "--"] if Path.home() == Path("/root") else []
    if user:
        shutil.chown(folder, "postgres")
    (port,) = map(str, free_ports(1))
    options = f"-k {folder} -c listen_addresses=127.0.0.1 -p {port}"
    subprocess.run([*user, binaries / "initdb", "-A", "trust", "-U", "me", folder / "db"], check=True)
    control = [*user, binaries / "pg_ctl", "-D", folder / "db", "-w"]
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], check=True)
    try:
        uris = []
        for name in ("tree", "tables"):
            subprocess.run(
                [*user, binaries / "createdb", "-h", folder, "-p", port, "-U", "me", name], check=True
            )
            uris.append(f"postgresql://me@127.0.0.1:{port}/{name}")
        with (
            stock_catalog(tmp_path, database=uris[0], tables=uris[1]) as server,
            remote_catalog(server.uri, tmp_path / "documents", api_key=server.api_key) as catalog,
        ):
            uid, frames = odd_run(catalog, tmp_path / "frames.h5")
            check_odd(catalog[uid], frames)
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "uri",
    [
        "tiled:8000",
        "http://tiled:8000?api_key=secret",
        "https://me:secret@tiled",
        "me:secret@tiled:8000",
        "https://me:se/secret@tiled",
        "ftp://me:secret?@tiled",
        "http://tiled/&api_key=secret",
        "http://tiled:8000?api_key=a@secret",
        "http://[::1:8000",
    ],
)
def test_uri_when_no_address_or_with_a_key_or_login_then_refused_without_it(tmp_path, uri):
    with pytest.raises(RequestError) as info:
        remote_catalog(uri, tmp_path)
    assert "secret" not in str(info.value)


def test_server_when_it_is_not_there_or_refuses_the_key_then_said(server, tmp_path, monkeypatch):
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)
    with pytest.raises(ServiceUnreachable, match="catalog"):
        remote_catalog("http://127.0.0.1:9/api/v1", tmp_path, api_key="x")
    with pytest.raises(ServiceUnreachable, match="401|Invalid API key") as info:
        remote_catalog(server.uri, tmp_path, api_key="wrong")
    assert "wrong" not in str(info.value)


def test_run_when_another_session_takes_it_then_replay_leaves_it_alone(server, remote):
    with remote_catalog(server.uri, remote._journal.directory, api_key=server.api_key) as other:
        run = Composed(remote)
        stream = run.stream("primary", {"x": scalar("number")})
        stream.event(x=1.0)
        remote.flush()
        assert other.waiting == [] and other.replay() == []
        assert other[run.uid]["primary"]["x"].read().tolist() == [1]
        stream.event(x=2.0)
        run.stop()
        remote.flush()
        assert remote[run.uid]["primary"]["x"].read().tolist() == [1, 2]
        assert remote.waiting == [] and other.waiting == []


def test_integers_without_a_sign_when_tables_have_no_such_type_then_exact_and_the_run_is_whole(remote):
    run = Composed(remote)
    keys = {"small": scalar("integer", "<u8"), "big": scalar("integer", "<u8"), "x": scalar("number")}
    stream = run.stream("primary", {**keys, "later": scalar("integer")})
    big = [2**64 - 1, 5, 6]
    later = [1, 2, 2**63]
    for i in range(3):
        stream.event(small=i, big=big[i], x=i / 2, later=later[i])
        remote.flush()
    run.stop()
    remote.flush()
    assert remote.waiting == []
    primary = remote[run.uid]["primary"]
    assert primary["small"].read().tolist() == [0, 1, 2]
    assert primary["x"].read().tolist() == [0, 0.5, 1]
    assert [str(value) for value in primary["big"].read()] == [str(value) for value in big]
    assert [str(value) for value in primary["later"].read()] == [str(value) for value in later]


def test_keys_when_no_table_of_sqlite_takes_them_then_the_run_is_whole(remote):
    check_no_columns(remote)

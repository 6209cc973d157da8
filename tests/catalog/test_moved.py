"""A catalog that was copied or moved reads; one whose files are empty, lost or foreign is refused by name.

Found faults: catalog-moved-or-empty.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from sfdaq_ophyd.catalog import _server, embedded_catalog
from sfdaq_ophyd.catalog.journal import Journal
from sfdaq_ophyd.errors import RunNotFound

from .composed import Composed, frames_of, image_key, scalar, simple_run, write_frames

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning"),  # alembic, of Tiled's settings
]

WAVE = {"source": "test", "dtype": "array", "shape": [2], "dtype_numpy": "<f8"}


def fill(catalog, path):
    """A run with numbers, a waveform and frames; returns its uid."""
    frames = frames_of(7, 2)
    write_frames(path, frames)
    run = Composed(catalog)
    stream = run.stream("primary", {"x": scalar("number"), "wave": WAVE, "image": image_key()})
    stream.datum(run.frames("image", path), 0, 2)
    for i in range(2):
        stream.event(x=i / 2, wave=[i, i])
    run.stop()
    catalog.flush()
    return run.uid


def check(catalog, uid):
    stream = catalog[uid]["primary"]
    assert list(stream["x"].read()) == [0.0, 0.5]
    np.testing.assert_array_equal(stream["wave"].read(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(np.squeeze(stream["image"].read()), frames_of(7, 2))


def files_of(catalog_directory):
    """The paths that the database points to."""
    with contextlib.closing(sqlite3.connect(catalog_directory / "catalog.db")) as database:
        uris = [uri for (uri,) in database.execute("SELECT data_uri FROM assets")]
    return {Path("/" + urlsplit(uri).path.lstrip("/")) for uri in uris}


def test_catalog_moved_or_empty_when_copied_and_moved_then_each_reads_and_writes_its_own(tmp_path):
    one, copy, moved = (tmp_path / name for name in ("one", "a copy", "moved"))
    (one / "frames").mkdir(parents=True)
    with embedded_catalog(one / "catalog") as catalog:
        uid = fill(catalog, one / "frames" / "f 1.h5")
    original = files_of(one / "catalog")
    assert original and all(path.is_relative_to(one) and path.exists() for path in original)
    shutil.copytree(one, copy)
    with embedded_catalog(copy / "catalog") as catalog:
        check(catalog, uid)
        later = fill(catalog, copy / "frames" / "2.h5")
        homes = (catalog.directory / "home").read_text().splitlines()
        assert homes == [str(place / "catalog") for place in (one, copy)]
    _server.settle_in(one / "catalog")
    assert files_of(one / "catalog") == original, "the copy is none of its business"
    shutil.rmtree(one)
    shutil.move(copy, moved)
    (moved / "catalog" / "home").unlink()  # as one that was made before it was noted
    with embedded_catalog(moved / "catalog") as catalog:
        assert list(catalog) == [uid, later]
        check(catalog, uid)
        check(catalog, later)


def test_documents_when_moved_twice_with_their_catalog_then_files_are_named_where_they_are(tmp_path):
    frames = [tmp_path / place / "frames" / "f 1.h5" for place in ("one", "two", "three")]
    catalog = frames[-1].parents[1] / "catalog"
    catalog.mkdir(parents=True)
    (catalog / "home").write_text("".join(f"{path.parents[1] / 'catalog'}\n" for path in frames))
    frames[-1].parent.mkdir()
    frames[-1].touch()
    was, now = (f"file://localhost{path}" for path in (frames[0], frames[-1]))
    journal = Journal(catalog / "documents", partial(_server.now_at, catalog))
    elsewhere = {"uid": "3", "run_start": "u", "uri": "file://localhost/elsewhere.h5"}
    for name, doc in [
        ("start", {"uid": "u"}),
        ("stream_resource", {"uid": "1", "run_start": "u", "uri": was}),
        (
            "resource",
            {"uid": "2", "run_start": "u", "root": str(tmp_path), "resource_path": "one/frames/f 1.h5"},
        ),
        ("stream_resource", elsewhere),
        ("stop", {"run_start": "u"}),
    ]:
        journal.write("u", name, doc)
    journal.keep("u")
    _, (_, new), (_, old), (_, other), _ = journal.read(journal.find("u"))
    assert new["uri"] == now and other == elsewhere
    assert f"{old['root']}{old['resource_path']}" == str(frames[-1])


def test_catalog_when_copied_with_its_frames_then_points_to_its_own_unless_they_are_others(tmp_path):
    one, copy = tmp_path / "one", tmp_path / "a copy"
    frames = one / "raw" / "run 1"
    for folder in (frames, one / "catalog"):
        folder.mkdir(parents=True)
    _server.prepare_database(one / "catalog" / "catalog.db")
    names = ("same.h5", "not copied.h5", "longer.h5", "other.h5")
    for name in names:
        (frames / name).write_bytes(np.random.default_rng(1).bytes(100_000))
    with sqlite3.connect(one / "catalog" / "catalog.db") as database:
        for name in names:
            uri = f"file://localhost{frames / name}"
            database.execute("INSERT INTO assets (data_uri, is_directory) VALUES (?, 0)", (uri,))
    database.close()
    (one / "catalog" / "home").write_text(f"{one / 'catalog'}\n")
    shutil.copytree(one, copy)
    own = copy / "raw" / "run 1"
    (own / "not copied.h5").unlink()
    with open(own / "longer.h5", "ab") as file:
        file.write(b"more")
    (own / "other.h5").write_bytes(np.random.default_rng(2).bytes(100_000))
    _server.settle_in(copy / "catalog")
    assert files_of(copy / "catalog") == {own / "same.h5", *(frames / name for name in names[1:])}
    now_at = partial(_server.now_at, copy / "catalog")
    was, now = (f"file://localhost{folder / 'same.h5'}" for folder in (frames, own))
    assert now_at(was) == now_at(now) == now


def foreign(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    database.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b""), "catalog.db is empty"),
        (foreign, "catalog.db is no catalog of this package"),
        (lambda path: path.write_bytes(b"this is no database" * 100), "file is not a database"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(5000)), "catalog.db is no catalog"),
    ],
)
def test_catalog_moved_or_empty_when_the_database_is_none_of_ours_then_refused_and_left(
    tmp_path, spoil, said
):
    spoil(tmp_path / "catalog.db")
    before = (tmp_path / "catalog.db").read_bytes()
    with pytest.raises(_server.UnusableError, match=f"{tmp_path}/.*{said}.*Restore it"):
        _server.prepare_database(tmp_path / "catalog.db")
    assert (tmp_path / "catalog.db").read_bytes() == before


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_tables_when_lost_then_refused_by_name(tmp_path, damage):
    _server.prepare_database(tmp_path / "catalog.db")
    tables = tmp_path / "tables.duckdb"
    tables.write_bytes(b"data")
    with sqlite3.connect(tmp_path / "catalog.db") as database:
        uri = f"duckdb://localhost/{tables}"
        database.execute("INSERT INTO assets (data_uri, is_directory) VALUES (?, 0)", (uri,))
    database.close()
    _server.settle_in(tmp_path)
    damage(tables)
    with pytest.raises(_server.UnusableError, match="tables.duckdb is missing or empty"):
        _server.settle_in(tmp_path)


def test_database_when_its_making_was_killed_then_made_again(tmp_path):
    (tmp_path / "catalog.new.db").write_bytes(b"half")
    _server.prepare_database(tmp_path / "catalog.db")
    _server.prepare_database(tmp_path / "catalog.db")
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.db"]


def test_run_when_its_client_was_killed_then_reading_it_says_replay(catalog):
    run = Composed(catalog)
    run.stream("primary", {"x": scalar("number")}).event(x=1.0)
    catalog.flush()
    assert catalog[run.uid].start["uid"] == run.uid, "it goes on"
    catalog._feed._forget(run.uid)  # as a process finds it that opens the catalog after the client
    catalog._journal.close()
    for key in (run.uid, run.uid[:8], -1):
        with pytest.raises(RunNotFound, match=r"only a part of it.*catalog.replay\(\) brings"):
            catalog[key]
    assert len(catalog.client[run.uid]["primary"]["x"].read()) == 1
    assert catalog.replay() == [run.uid]
    assert list(catalog[run.uid]["primary"]["x"].read()) == [1.0]
    simple_run(catalog)
